"""Signed PNG files, read back by the reader of c2pa-python, and one clear line per mistake."""

import datetime
import json
import sys

import numpy as np
import pytest
from PIL import Image

from score_sde.errors import DataError
from score_sde.media import pictures, sign
from tests.media.test_pictures import GENERATED, source_types


@pytest.fixture
def folder(tmp_path):
    """Two pictures that a model drew, and a plot."""
    array = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    for name in ("a", "b"):
        pictures.write_generated(tmp_path / f"{name}.png", Image.fromarray(array))
    pictures.write(tmp_path / "plot.png", Image.fromarray(array))
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def owner(tmp_path_factory):
    """A root, a certificate that it issued to "leaf", and both keys, in PEM files."""
    pytest.importorskip("c2pa")
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "leaf")}
    usages = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    no_usage = dict.fromkeys((*usages, "encipher_only", "decipher_only"), False)

    def certificate(name):
        is_root, public = name == "root", keys[name].public_key()
        usage = x509.KeyUsage(
            digital_signature=not is_root, key_cert_sign=is_root, crl_sign=is_root, **no_usage
        )
        subject, issuer = (
            x509.Name(
                [
                    x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "tests"),
                    x509.NameAttribute(x509.NameOID.COMMON_NAME, one),
                ]
            )
            for one in (name, "root")
        )
        made = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
        made = made.not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=9))
        of_issuer = keys["root"].public_key()
        for extension, critical in (
            (x509.BasicConstraints(is_root, None), True),
            (usage, True),
            (x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False),
            (x509.SubjectKeyIdentifier.from_public_key(public), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(of_issuer), False),
        ):
            made = made.add_extension(extension, critical)
        signed = made.sign(keys["root"], hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    folder = tmp_path_factory.mktemp("owner")
    (folder / "chain.pem").write_bytes(certificate("leaf") + certificate("root"))
    for name, key in keys.items():
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (folder / f"{name}.pem").write_bytes(pem)
    return folder


def test_signed_files_are_read_by_others(folder, owner):
    """The reader of c2pa-python finds the action, the source type and a valid signature. The
    certificate is on no list of trust. Pixels and the XMP packet stay, and so does the plot."""
    import c2pa

    before = contents(folder)
    line = sign.sign([folder], owner / "leaf.pem", owner / "chain.pem")
    assert line == "2 PNG files are signed; 1 others do not say that a model drew them"
    assert contents(folder)["plot.png"] == before["plot.png"]
    for name in ("a", "b"):
        path = folder / f"{name}.png"
        with c2pa.Reader(str(path)) as reader:
            found = json.loads(reader.json())
        assert found["validation_state"] == "Valid"
        failures = found["validation_results"]["activeManifest"]["failure"]
        assert [failure["code"] for failure in failures] == ["signingCredential.untrusted"]
        (manifest,) = found["manifests"].values()
        assert manifest["signature_info"]["common_name"] == "leaf"
        (assertion,) = manifest["assertions"]
        (action,) = assertion["data"]["actions"]
        assert action == {"action": "c2pa.created", "digitalSourceType": GENERATED[0]}
        assert source_types(path) == GENERATED
        for one in ("plot", name):
            array = np.asarray(Image.open(folder / f"{one}.png"))
            np.testing.assert_array_equal(array.ravel(), np.arange(192))


def test_a_changed_picture_is_no_longer_valid(folder, owner):
    import c2pa

    path = folder / "a.png"
    sign.sign([path], owner / "leaf.pem", owner / "chain.pem")
    content = bytearray(path.read_bytes())
    content[-20] ^= 1  # of the pixels or of their check sum
    path.write_bytes(content)
    with c2pa.Reader(str(path)) as reader:
        found = json.loads(reader.json())
    assert found["validation_state"] == "Invalid"
    codes = [a["code"] for a in found["validation_results"]["activeManifest"]["failure"]]
    assert "assertion.dataHash.mismatch" in codes


@pytest.mark.parametrize(
    ("key", "certificate", "algorithm"),
    [
        ("root.pem", "chain.pem", "es256"),  # of another certificate
        ("chain.pem", "leaf.pem", "es256"),  # one in the place of the other
        ("leaf.pem", "chain.pem", "ps256"),
    ],
)
def test_a_key_that_does_not_fit(folder, owner, key, certificate, algorithm):
    before = contents(folder)
    with pytest.raises(DataError, match=f"cannot sign by {algorithm}: ") as error:
        sign.sign([folder], owner / key, owner / certificate, algorithm)
    assert "\n" not in str(error.value)
    assert contents(folder) == before


def test_without_the_package(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    before = contents(folder)
    with pytest.raises(SystemExit, match=r"error: signing needs c2pa-python, .*score_sde\[c2pa\]"):
        sign.main([str(folder), "--key", "key.pem", "--certificate", "chain.pem"])
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plot.png", r"plot\.png: no PNG file here says that a model drew it"),
        ("empty", "empty: no PNG file here says that a model drew it"),
        ("none.png", r"none\.png cannot be read as an image"),
    ],
)
def test_what_no_model_drew_is_not_signed(folder, name, message):
    """Also where a picture beside it could be."""
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        sign.generated([folder / "a.png", folder / name])
