"""Sound files: what is read is what was written, to the last bit; bad files are one line each."""

import importlib
import os
import struct
import subprocess
import wave

import numpy as np
import pytest
import soundfile

from score_sde.config import build
from score_sde.data.sound_files import read_sound
from score_sde.data.tones_reading import cents
from score_sde.errors import DataError
from score_sde.media import wav

RATE = 8000
SOUND = np.random.default_rng(0).uniform(-1, 1, (500, 2))


def folder(**options):
    return build("data", {"name": "sound_folder", **options})


def write(path, sound=SOUND, rate=RATE, subtype=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, subtype=subtype)
    return path


@pytest.mark.parametrize(
    ("name", "subtype", "bits"),
    [
        ("a.wav", "PCM_U8", 8),
        ("a.wav", "PCM_16", 16),
        ("a.wav", "PCM_24", 24),
        ("a.wav", "PCM_32", 24),  # as float32 holds
        ("a.wav", "FLOAT", 24),
        ("a.flac", "PCM_16", 16),
        ("a.flac", "PCM_24", 24),
    ],
)
def test_both_channels_of_every_kind_are_read(tmp_path, name, subtype, bits):
    path = write(tmp_path / name, subtype=subtype)
    sound, rate = read_sound(path)
    theirs, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(sound, theirs)
    assert (sound.dtype, rate) == (np.float32, RATE)
    np.testing.assert_allclose(sound, SOUND, atol=2.0 ** (1 - bits))


def test_our_own_files_are_read(tmp_path):
    wav.write_generated(tmp_path / "a.wav", SOUND, RATE)
    sound, rate = read_sound(tmp_path / "a.wav")
    np.testing.assert_array_equal(sound, np.round(SOUND * 32768).clip(-32768, 32767) / 32768)
    assert rate == RATE


def test_whole_numbers_need_no_soundfile(tmp_path, monkeypatch):
    plain, flac = write(tmp_path / "a.wav", subtype="PCM_24"), write(tmp_path / "a.flac")
    truth, _ = soundfile.read(plain, dtype="float32")

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    np.testing.assert_array_equal(read_sound(plain)[0], truth)
    with pytest.raises(DataError, match=r"run `pip install 'score_sde\[sound\]'`") as error:
        read_sound(flac)
    assert "\n" not in str(error.value)


def test_a_folder_has_classes_captions_and_a_split(tmp_path):
    for i in range(6):
        path = write(tmp_path / ("high" if i % 2 else "low") / f"{i}.wav", SOUND * (i + 1) / 6)
        path.with_suffix(".txt").write_text(f"number {i}\n")
    data = folder(path=str(tmp_path), test_fraction=0.5, length=400, caption_field=".txt")
    assert data.features["sound"].shape == (400, 2)
    assert data.features["label"].values == 2
    order = ["high/1", "high/3", "high/5", "low/0", "low/2", "low/4"]
    for source, numbers in ((data.test, (0, 2, 4)), (data.train, (1, 3, 5))):
        for example, number in zip(map(source.__getitem__, range(3)), numbers, strict=True):
            i = int(order[number][-1])
            np.testing.assert_allclose(example["sound"], SOUND[:400] * (i + 1) / 6, atol=1e-4)
            assert example["label"] == (0 if i % 2 else 1)
            assert example["caption"].tolist() == [f"number {i}"]
    held = folder(path=str(tmp_path), length=400, memory=True)
    np.testing.assert_array_equal(held.test.parts["sound"][0], data.test[0]["sound"])


def truncated(path):
    path.write_bytes(write(path).read_bytes()[:-100])


def truncated_data(path):
    """A data chunk that reaches beyond the end, in a file whose own size is right."""
    content = bytearray(write(path, subtype="PCM_16").read_bytes())
    content[40:44] = struct.pack("<I", 10**9)
    path.write_bytes(content)


def truncated_flac(path):
    path.write_bytes(write(path).read_bytes()[:600])


def no_wave(path):
    path.write_bytes(b"ID3 this is no wave at all" * 10)


def empty(path):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))


def not_finite(path):
    write(path, np.where(SOUND > 0.9, np.nan, SOUND), subtype="FLOAT")


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (truncated, "b.wav", "is cut off: it says that it has 2,044 bytes, and has 1,944"),
        (truncated_data, "b.wav", "is cut off: it says that it has 250,000,000 numbers a channel"),
        (truncated_flac, "b.flac", "b.flac (is cut off|cannot be read as a sound)"),
        (no_wave, "b.wav", r"cannot be read as a sound \("),
        (empty, "b.wav", "holds no sound"),
        (not_finite, "b.wav", "has numbers that are not finite"),
        (lambda path: write(path, rate=11_025), "b.wav", "11025 numbers a second, and others have"),
        (lambda path: write(path, SOUND[:, 0]), "b.wav", "has 1 channels, and others have 2"),
        (lambda path: write(path, SOUND[:300]), "b.wav", "has 300 numbers a channel, and 500 are"),
        (lambda path: write(path, np.tile(SOUND, (2, 1))), "b.wav", "has 1000 numbers a channel"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_files_are_one_line_each(tmp_path, make, name, message):
    write(tmp_path / "a.wav")
    make(tmp_path / name)
    data = folder(path=str(tmp_path), test_fraction=0.5)
    with pytest.raises(DataError, match=message) as error:
        data.train[0]
    assert "\n" not in str(error.value)
    assert str(tmp_path / name) in str(error.value)


def test_bad_folders_are_one_line_each(tmp_path):
    for path, message in (
        (tmp_path, r"holds no sound \(\.wav, \.flac\)"),
        (tmp_path / "x", "not a"),
    ):
        with pytest.raises(DataError, match=message):
            folder(path=str(path))
    with pytest.raises(DataError, match="length must be positive, got 0"):
        folder(path=str(tmp_path), length=0)


FAKE = """#!/bin/sh
printf '%s\\n' "$@" > "$(dirname "$0")/said"
while [ "$1" != "-w" ]; do shift; done
cp "$(dirname "$0")/tone.wav" "$2"
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program in the place of espeak-ng that says a tone of 441 Hz, 22,050 numbers a second."""
    wave = 0.5 * np.sin(2 * np.pi * 441 * np.arange(2205) / 22_050)
    write(tmp_path / "tone.wav", wave, 22_050)
    (tmp_path / "espeak-ng").write_text(FAKE)
    (tmp_path / "espeak-ng").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_words_are_said_by_fixed_arguments_and_resampled(program):
    data = build(
        "data",
        "spoken_words(words=('yes', 'no'), voices=('de+f2',), pitches=(40, 60), speeds=(175,), "
        "rate=8000, length=1024)",
    )
    assert (len(data.train), len(data.test)) == (3, 1)
    said = (program / "said").read_text().split("\n")
    assert said[:7] == ["-v", "de+f2", "-p", "60", "-s", "175", "-w"]
    assert said[8:] == ["--", "no", ""]
    for i in range(3):
        example = data.train[i]
        assert example["caption"].tolist() == [("yes", "no")[example["label"]]]
        wave = example["sound"][:800, 0]
        f = 441 / 8000 * np.arange(800)
        inside = slice(50, -50)  # filters end there
        np.testing.assert_allclose(wave[inside], 0.5 * np.sin(2 * np.pi * f)[inside], atol=2e-3)
        assert not np.any(example["sound"][820:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("words=('rm -rf',)", "words: 'rm -rf' is no name of letters"),
        ("voices=('--path=x',)", "voices: '--path=x' is no name"),
        ("pitches=(100,)", "pitches are from 0 to 99, got 100"),
        ("words=()", "name at least one each"),
        ("length=100", "'yes' takes 800 numbers at 8000 a second, and length is 100"),
    ],
)
def test_words_that_cannot_be_said(program, options, message):
    with pytest.raises(DataError, match=message):
        build("data", f"spoken_words({options})")


def test_a_program_that_fails_or_is_absent_is_one_line(program, monkeypatch):
    (program / "espeak-ng").write_text("#!/bin/sh\necho no such voice >&2\nexit 1\n")
    with pytest.raises(DataError, match="does not say 'yes' with 'en-us': no such voice"):
        build("data", "spoken_words")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match=r"not installed: get it \(on Debian `apt-get install"):
        build("data", "spoken_words")


def has_espeak():
    try:
        return not subprocess.run(["espeak-ng", "--version"], capture_output=True).returncode
    except OSError:
        return False


@pytest.mark.skipif(not has_espeak(), reason="espeak-ng is not installed")
def test_a_higher_pitch_is_a_higher_voice():
    """By the greatest autocorrelation of the vowel of "no"."""
    low, high = (
        build("data", f"spoken_words(words=('no', 'go'), voices=('en-us',), pitches=({p},))")
        for p in (10, 90)
    )

    def pitch(sound):
        loud = int(np.argmax(np.convolve(sound[:, 0] ** 2, np.ones(800), "same")))
        vowel = sound[max(loud - 400, 0) :, 0][:800].astype(float)
        found = np.correlate(vowel, vowel, "full")[799:]
        lag = 20 + int(np.argmax(found[20:160]))
        return 8000 / lag

    assert cents(pitch(high.train[0]["sound"]), pitch(low.train[0]["sound"])) > 300
