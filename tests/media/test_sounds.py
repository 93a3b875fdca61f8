"""Sounds: WAV files, which say who made them, and pictures of their frequencies."""

import struct
import wave
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from score_sde.config import build
from score_sde.errors import DataError
from score_sde.media import wav
from score_sde.media.medium import Medium
from score_sde.media.sounds import Sounds, sounds, spectrogram
from tests.media.test_pictures import GENERATED, IPTC, RDF, source_types

RATE = 8000
NOISE = np.random.default_rng(0).uniform(-1, 1, (999, 2)).astype(np.float32)


def tone(frequency, length=2048):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(length) / RATE))[:, None]


def chunks(path):
    """Of a RIFF file (IBM and Microsoft 1991, "Multimedia Programming Interface", sec. 2)."""
    content = path.read_bytes()
    kind, size, form = struct.unpack("<4sI4s", content[:12])
    assert (kind, size, form) == (b"RIFF", len(content) - 8, b"WAVE")
    found, place = {}, 12
    while place < len(content):
        name, size = struct.unpack("<4sI", content[place : place + 8])
        found[name] = content[place + 8 : place + 8 + size]
        assert len(found[name]) == size
        place += 8 + size + size % 2
    assert place == len(content)
    return found


def test_a_file_holds_the_sound_and_who_made_it(tmp_path):
    path = tmp_path / "one.wav"
    assert isinstance(sounds(RATE), Medium)
    assert build("media", "sounds(rate=8000)") == sounds(RATE)
    sounds(RATE).save(path, NOISE)
    with wave.open(str(path)) as file:
        assert file.getparams()[:4] == (2, 2, RATE, 999)
        numbers = np.frombuffer(file.readframes(999), "<i2").reshape(999, 2)
    np.testing.assert_allclose(numbers / 32768, NOISE, atol=2**-16)
    packet = chunks(path)[b"_PMX"].decode()
    root = ElementTree.fromstring(packet.removeprefix("\ufeff"))
    told = [d.get(f"{IPTC}DigitalSourceType") for d in root.iter(f"{RDF}Description")]
    assert told == GENERATED
    assert wav.says_generated(path)


def test_sounds_beyond_the_range_are_clipped(tmp_path):
    sounds(RATE).save(tmp_path / "a.wav", np.array([[-2.0], [-1.0], [1.0], [2.0], [np.nan]]))
    with wave.open(str(tmp_path / "a.wav")) as file:
        numbers = np.frombuffer(file.readframes(5), "<i2")
    np.testing.assert_array_equal(numbers, [-32768, -32768, 32767, 32767, 0])


def test_other_files_do_not_say_so(tmp_path):
    path = tmp_path / "own.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(bytes(20))
    assert not wav.says_generated(path)
    path.write_bytes(b"no sound")
    assert not wav.says_generated(path)
    with pytest.raises(DataError, match=r"absent\.wav cannot be read: No such file"):
        wav.says_generated(tmp_path / "absent.wav")


def test_the_power_is_that_of_the_spectrum():
    """A wave of k whole periods in a window has (a n/4)^2 at k under Hann's window, and a
    quarter of it beside."""
    power = spectrogram(tone(1000)[None, :, 0], 256, 16)
    assert power.shape == (1, 16, 129)
    middle = power[0, 8]
    truth = np.zeros(129)
    truth[31:34] = (0.5 * 256 / 4) ** 2 * np.array([0.25, 1, 0.25])  # 1000 Hz is 32 of 256
    np.testing.assert_allclose(middle, truth, atol=1e-9)


def test_a_picture_shows_a_frequency_at_its_height(tmp_path):
    """In the middle of a sheet's cell; up to a pixel and the window's three bins."""
    medium = Sounds(RATE, height=64, width=64)
    shown = np.stack([tone(f) for f in (500, 1000, 2000, 3000)])
    medium.sheet(tmp_path / "sheet.png", shown)
    picture = np.asarray(Image.open(tmp_path / "sheet.png").convert("L")).astype(int)
    scale, gap = 512 // (2 * 65), 2
    for number, frequency in enumerate((500, 1000, 2000, 3000)):
        top = gap + number // 2 * (64 * scale + gap)
        left = gap + number % 2 * (64 * scale + gap)
        column = picture[top : top + 64 * scale : scale, left + 32 * scale]
        assert abs(int(np.argmax(column)) - (63 - 64 * frequency / 4000)) <= 1
        assert np.sum(column > 0) < 12


def test_channels_are_below_one_another(tmp_path):
    medium = Sounds(RATE, height=32, width=48)
    both = np.concatenate([tone(1000), 0 * tone(1000)], axis=1)
    medium.rows(tmp_path / "rows.png", np.stack([both, both[:, ::-1]])[:, None], ["x"])
    picture = np.asarray(Image.open(tmp_path / "rows.png").convert("L")).astype(int)
    for i, (sounding, silent) in enumerate(((0, 1), (1, 0))):
        cell = picture[20 + i * (65 + 4) :, 4:][:65, :48]
        upper, lower = cell[:32], cell[33:]
        assert (upper, lower)[sounding].max() == 255
        assert (upper, lower)[silent].max() == 0


def test_pictures_say_that_a_model_drew_them(tmp_path):
    medium, shown = Sounds(RATE), NOISE[None, :, :1].repeat(2, axis=0)
    medium.sheet(tmp_path / "sheet.png", shown)
    medium.rows(tmp_path / "rows.png", shown[None], ["a", "b"])
    sheets = dict.fromkeys((1, 2), tmp_path / "sheet.png")
    medium.over_time(tmp_path / "time.png", sheets, 2, shown.shape[1:])
    for name in ("sheet", "rows", "time"):
        assert source_types(tmp_path / f"{name}.png") == GENERATED
    one, both = (len(np.asarray(Image.open(tmp_path / f"{n}.png"))) for n in ("sheet", "time"))
    assert abs(both - 2 * one) <= 4
