"""Readers of data sets, and of pictures that a user names."""

import importlib.util
import json

import numpy as np
import soundfile
import trimesh
from PIL import Image

from score_sde.data import files, pairs
from score_sde.data.clip_folder import clip_folder
from score_sde.data.csv_table import csv_table
from score_sde.data.encoded import as_json, encoded
from score_sde.data.image_folder import folder
from score_sde.data.latents import latents
from score_sde.data.mesh_folder import mesh_folder
from score_sde.data.npz_arrays import npz
from score_sde.data.npz_reals import npz_reals
from score_sde.data.sound_folder import sound_folder
from score_sde.data.text_file import text_file
from score_sde.data.words import words
from score_sde.media import pictures, sign, wav
from score_sde.types import Feature
from tests.long.fuzz.case import Case, every, numbers
from tests.published_cases import GOLDEN


def _pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _images(at):
    for i, suffix in enumerate(("png", "jpg", "webp", "bmp", "gif")):
        Image.fromarray(_pixels(9, 8, 3)).save(at / f"{i}.{suffix}")


def _captioned(at):
    _images(at)
    (at / "4.gif").unlink()
    lines = [
        {"file_name": f"{i}.{suffix}", "text": ["a b", "c"], "label": i}
        for i, suffix in enumerate(("png", "jpg", "webp", "bmp"))
    ]
    (at / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    for i in range(4):
        (at / f"{i}.txt").write_text("one\ntwo\n")


def _clips(at):
    frames = [Image.fromarray(frame) for frame in _pixels(3, 8, 8, 3)]
    for suffix in ("gif", "png", "webp"):
        frames[0].save(at / f"a.{suffix}", save_all=True, append_images=frames[1:])
    np.savez(at / "a.npz", video=_pixels(3, 8, 8))


def _movies(at):
    import imageio.v3

    for name in ("a.mp4", "b.webm"):
        imageio.v3.imwrite(at / name, _pixels(3, 64, 64, 3), plugin="pyav", codec=CODECS[name])


CODECS = {"a.mp4": "mpeg4", "b.webm": "libvpx-vp9"}


def _sounds(at):
    for name, kind in (("a.wav", "PCM_16"), ("b.wav", "FLOAT"), ("c.flac", "PCM_16")):
        soundfile.write(at / name, 0.1 * numbers(50, 2), 8000, subtype=kind)


def _meshes(at):
    mesh = trimesh.creation.box()
    for name in ("a.ply", "b.obj", "c.stl"):
        mesh.export(at / name)
    mesh.export(at / "d.ply", encoding="ascii")
    np.savez(at / "e.npz", points=numbers(20, 3))


def _latents(at):
    np.save(at / "latents.npy", numbers(4, 2, 2, 1))
    np.save(at / "labels.npy", np.arange(4))
    np.save(at / "captions.npy", np.array([["a", "b"]] * 4))


def _encoded(at):
    features = {
        "moments": Feature((2, 2, 2), None),
        "label": Feature((), 3, names=("a", "b", "c")),
    }
    about = {
        "data": "mine",
        "made_by": {"a": 1},
        "made_of": as_json(features),
        "features": as_json(features),
        "number": {"train": 3, "test": 2},
    }
    (at / "encoded.json").write_text(json.dumps(about))
    for split, n in about["number"].items():
        (at / split).mkdir()
        np.save(at / split / "moments.npy", numbers(n, 2, 2, 2).astype(np.float16))
        np.save(at / split / "label.npy", np.zeros(n, np.int32))


def _arrays(at):
    image, label = _pixels(4, 4, 4, 3), np.arange(4)
    captions = np.array(["a", "b", "c", "d"])
    np.savez(at / "whole.npz", image=image, label=label, captions=captions)
    np.savez_compressed(at / "packed.npz", image=image, label=label, captions=captions)
    np.savez(at / "reals.npz", latent=numbers(4, 2, 2), label=label)


def _read_arrays(at):
    for name in ("whole.npz", "packed.npz"):
        every(npz(at / name, caption_field="captions"))
    every(npz_reals(at / "reals.npz"))


def _pairs(at):
    raw = {"label": np.arange(3)}
    pairs.write(at / "pairs.npz", pairs.Pairs(numbers(3, 2), numbers(3, 2), raw, {"a": 1}))


def _table(at):
    rows = "\n".join(f"{i},{i / 7},{'xy'[i % 2]},{i % 3}" for i in range(12))
    (at / "a.csv").write_text(f"one,two,three,four\n{rows}\n")


def _read_table(at):
    every(csv_table(at / "a.csv", categories=("four",), label_column="three"))


def _texts(at):
    (at / "a.txt").write_text("the quick brown fox jumps över the lazy dog " * 10)
    (at / "tokenizer.json").write_bytes(
        (GOLDEN / "text" / "t5_json" / "tokenizer.json").read_bytes()
    )


def _read_texts(at):
    file = at / "a.txt"
    for tokens in ("bytes", "characters", str(at / "tokenizer.json")):
        every(text_file(file, length=8, tokens=tokens))
    words(file)


def _asked(at):
    _images(at)
    np.savez(at / "samples.npz", samples=_pixels(2, 9, 8, 3))
    pictures.write_generated(at / "made.png", Image.fromarray(_pixels(9, 8, 3)))


def _read_asked(at):
    for name in ("0.png", "1.jpg", "2.webp", "3.bmp"):
        files.read_images(at / name, (8, 8, 3), resize=True)
    files.read_images(at / "samples.npz", (9, 8, 3))
    files.read_mask(at / "0.png", (9, 8, 3))
    sign.generated([at / "made.png"])


def _said(at):
    wav.write_generated(at / "a.wav", numbers(50, 1), 8000)


CASES = {
    "images": Case(
        _captioned,
        lambda at: every(folder(at, image_size=8)),
        {"0.png": "png", "1.jpg": "bytes", "2.webp": "bytes", "3.bmp": "bytes"},
    ),
    "captions": Case(
        _captioned,
        lambda at: every(folder(at, image_size=8, caption_field="text", label_field="label")),
        {"metadata.jsonl": "json lines"},
    ),
    "texts beside images": Case(
        _captioned, lambda at: folder(at, image_size=8, caption_field=".txt"), {"1.txt": "lines"}
    ),
    "clips": Case(
        _clips,
        lambda at: every(clip_folder(at, frames=2, image_size=8, longer=True)),
        {"a.gif": "bytes", "a.png": "png", "a.webp": "bytes", "a.npz": "zip"},
    ),
    "movies": Case(
        _movies,
        lambda at: every(clip_folder(at, frames=2, image_size=8, longer=True)),
        {"a.mp4": "bytes", "b.webm": "bytes"},
        20,
    ),
    "sounds": Case(
        _sounds,
        lambda at: every(sound_folder(at, length=50)),
        {"a.wav": "bytes", "b.wav": "bytes", "c.flac": "bytes"},
    ),
    "meshes": Case(
        _meshes,
        lambda at: every(mesh_folder(at, points=10)),
        {"a.ply": "bytes", "b.obj": "lines", "c.stl": "bytes", "d.ply": "lines", "e.npz": "zip"},
        300,
    ),
    "latents": Case(
        _latents,
        lambda at: every(latents(at, test_fraction=0.5, caption_field="captions")),
        {"latents.npy": "npy", "labels.npy": "npy", "captions.npy": "npy"},
    ),
    "encoded": Case(
        _encoded,
        lambda at: every(encoded(at)),
        {"encoded.json": "json", "train/moments.npy": "npy", "test/label.npy": "npy"},
    ),
    "arrays": Case(
        _arrays, _read_arrays, {"whole.npz": "zip", "packed.npz": "zip", "reals.npz": "zip"}
    ),
    "pairs": Case(_pairs, lambda at: pairs.read(at / "pairs.npz"), {"pairs.npz": "zip"}),
    "table": Case(_table, _read_table, {"a.csv": "lines"}),
    "texts": Case(_texts, _read_texts, {"a.txt": "lines", "tokenizer.json": "json"}),
    "pictures that are asked for": Case(
        _asked,
        _read_asked,
        {"0.png": "png", "1.jpg": "bytes", "samples.npz": "zip", "made.png": "png"},
    ),
    "sounds that say that they are made": Case(
        _said, lambda at: wav.says_generated(at / "a.wav"), {"a.wav": "bytes"}
    ),
}
if importlib.util.find_spec("av") is None:  # of the extra `video`
    del CASES["movies"]
