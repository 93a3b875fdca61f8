"""Signs PNG files that a model drew (C2PA, Coalition for Content Provenance and Authenticity).

    python -m score_sde.media.sign FOLDER --key key.pem --certificate chain.pem

Each file gets a C2PA manifest in its place: the action c2pa.created with the digital source type
trainedAlgorithmicMedia, and a signature over it and over all bytes of the picture. Pixels stay.
Needs `pip install 'score_sde[c2pa]'`.
"""

from __future__ import annotations

import argparse
import importlib
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from score_sde import __version__
from score_sde.errors import DataError
from score_sde.media import pictures
from score_sde.runtime.atomic import replacing

__all__: list[str] = []  # what a config can name: nothing, for this is no medium

ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")

MANIFEST = {
    "claim_generator_info": [{"name": "score_sde", "version": __version__}],
    "assertions": [
        {
            "label": "c2pa.actions.v2",
            "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": pictures.SOURCE}]},
        }
    ],
}
SETTINGS = {"builder": {"thumbnail": {"enabled": False}}}  # which would be larger than the picture


def generated(paths: Iterable[Path]) -> tuple[list[Path], int]:
    """The PNG files that say that a model drew them, of files and folders (not below these), and
    how many other PNG files the folders hold.

    Raises:
      DataError: a file does not say so, or cannot be read, or there is none.
    """
    found, others = [], 0
    for path in paths:
        files = sorted(path.glob("*.png")) if path.is_dir() else [path]
        of_path = [file for file in files if pictures.says_generated(file)]
        if not of_path:
            raise DataError(
                f"{path}: no PNG file here says that a model drew it, so nothing is signed: name "
                "files that mode `sample` or `edit` wrote"
            )
        found += of_path
        others += len(files) - len(of_path)
    return found, others


def signer(key: Path, certificate: Path, algorithm: str) -> Callable[[bytes], bytes]:
    """`PNG -> the same picture with a signed manifest`, in the place of one that it has.

    key: PEM (PKCS#8), without a password. certificate: PEM, that of the key first, then the chain
        that leads to its root. algorithm: one of `ALGORITHMS`, which the key is made for.

    Raises:
      DataError: c2pa-python is not installed, or a file cannot be read. The function raises it for
        a key or certificate that cannot sign.
    """
    try:
        c2pa: Any = importlib.import_module("c2pa")
    except ImportError as error:
        raise DataError(
            "signing needs c2pa-python, which is not installed: run `pip install 'score_sde[c2pa]'`"
        ) from error
    texts = []
    for path in (certificate, key):
        try:
            texts.append(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error

    def signed(png: bytes) -> bytes:
        out = io.BytesIO()
        try:
            owner = c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, *texts, None))
            context = c2pa.Context(settings=c2pa.Settings.from_dict(SETTINGS))
            with c2pa.Builder(MANIFEST, context=context) as builder:
                builder.sign(owner, "image/png", io.BytesIO(png), out)
        except c2pa.C2paError as error:
            raise DataError(
                f"{key} and {certificate} cannot sign by {algorithm}: {error}"
            ) from error
        return out.getvalue()

    return signed


def sign(paths: Sequence[Path], key: Path, certificate: Path, algorithm: str = "es256") -> str:
    """Signs what `generated` finds, each file whole or not at all. Gives a line that counts them.

    Raises:
      DataError: as `generated` and `signer`, before anything is written.
    """
    found, others = generated(paths)
    signed = signer(key, certificate, algorithm)
    for path in found:
        content = signed(path.read_bytes())
        with replacing(path) as file:
            file.write(content)
    return f"{len(found)} PNG files are signed; {others} others do not say that a model drew them"


def main(args: Sequence[str] | None = None) -> None:
    """The command line; exits with one line where something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m score_sde.media.sign",
        description="Sign PNG files that a model drew (C2PA).",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="PNG files, or folders")
    parser.add_argument("--key", type=Path, required=True, help="private key, PEM (PKCS#8)")
    parser.add_argument("--certificate", type=Path, required=True, help="its chain, PEM")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="es256", help="of the key")
    options = parser.parse_args(args)
    try:
        print(sign(options.paths, options.key, options.certificate, options.algorithm))
    except DataError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
