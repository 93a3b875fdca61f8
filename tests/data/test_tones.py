"""Tones: what was named is read back, the spectrum is that of the harmonics, the seed decides."""

import itertools

import numpy as np
import pytest

from score_sde.config import build
from score_sde.data import tones as world
from score_sde.data.draws import Draws
from score_sde.data.tones import ENVELOPES, EVERY, NOTES, TIMBRES, Tone, frequency, sound
from score_sde.data.tones_reading import cents, read_pitch, read_tone
from score_sde.errors import DataError
from score_sde.evaluation import worlds


def test_what_is_named_is_read_back_from_every_tone():
    for i, tone in enumerate(EVERY):
        wave = sound(tone, Draws((i,), 5), 4000, 1024)
        found, pitch = read_tone(wave, 4000)
        assert found == tone
        assert abs(cents(pitch, frequency(tone.note))) < 0.1
        assert np.abs(wave).max() < 1


def test_notes_are_of_equal_temperament():
    """440 Hz is A4, and middle C is 261.63 Hz (ISO 16)."""
    assert 2 * frequency("A3") == 440
    assert frequency("C4") == pytest.approx(261.626, abs=1e-3)
    steps = [cents(frequency(b), frequency(a)) for a, b in itertools.pairwise(NOTES)]
    assert steps == pytest.approx([100] * 11)


def test_the_spectrum_has_the_harmonics_and_nothing_else():
    """A steady tone at 220 Hz of whole periods: |rfft| is a n/2 at harmonics and 0 elsewhere."""
    wave = sound(Tone("A3", "bright", "steady"), Draws((1,), 5), 4400, 4400)[:, 0]
    spectrum = np.abs(np.fft.rfft(wave.astype(float)))
    lines = 220 * np.arange(1, 5)
    found = spectrum[lines] / spectrum[220]
    np.testing.assert_allclose(found, TIMBRES["bright"], atol=1e-6)
    spectrum[lines] = 0
    assert spectrum.max() < 4400 * 2**-24  # 4400 numbers below 1, each rounded to float32
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(0.12, rel=0.101)


def test_envelopes_end_e_cubed_times_lower_or_higher():
    for name, slope in ENVELOPES.items():
        wave = sound(Tone("A3", "pure", name), Draws((2,), 5), 4400, 4400)[:, 0]
        first, last = (np.sqrt(np.mean(part**2)) for part in (wave[:440], wave[-440:]))
        assert np.log(last / first) == pytest.approx(0.9 * slope, abs=1e-3)


@pytest.mark.parametrize("off", [-23.0, 7.0, 40.0])
def test_a_pitch_between_notes_is_read_in_noise(off):
    """Within 5 cents, at 20 dB."""
    f, i = 300 * 2 ** (off / 1200), np.arange(1024) / 4000
    for k in (1, 3):
        wave = np.sin(2 * np.pi * f * i) + 0.5 * np.sin(2 * np.pi * k * f * i + 1)
        noise = 0.1 * np.random.default_rng(k).normal(size=1024) * np.std(wave)
        assert abs(cents(read_pitch((wave + noise)[:, None], 4000), f)) < 5


def test_noise_and_silence_are_no_tone():
    noise = np.random.default_rng(0).normal(size=(1024, 1))
    assert read_tone(noise, 4000)[0].timbre == "none"
    assert read_tone(np.zeros((1024, 1)), 4000)[0].timbre == "none"
    burst = noise * (np.arange(1024) % 256 < 64)[:, None]
    assert read_tone(burst * (np.arange(1024) > 512)[:, None], 4000)[0].envelope == "none"


def test_examples_are_of_their_caption_and_of_the_seed():
    data, again, other = (build("data", f"tones(train=30, test=30, seed={s})") for s in (0, 0, 1))
    for i in range(30):
        example = data.train[i]
        tone, _ = read_tone(example["sound"], 4000)
        assert example["caption"].tolist() == world.captions(tone)
        assert NOTES[example["label"]] == tone.note
        np.testing.assert_array_equal(example["sound"], again.train[i]["sound"])
        assert np.any(example["sound"] != other.train[i]["sound"])
        assert np.any(example["sound"] != data.test[i]["sound"])
    assert data.features["sound"].shape == data.train[0]["sound"].shape == (1024, 1)


def test_every_tone_is_about_as_frequent():
    """Of 10,800 draws of 108 tones each has 100, within five standard deviations of 10."""
    found = [EVERY.index(tone) for tone in world.prompts(10_800)]
    assert np.abs(np.bincount(found, minlength=108) - 100).max() < 50


def test_the_world_reads_one_fault_at_a_time():
    asked = worlds.tones().prompts("tones", 20)
    read = worlds.tones().read
    for i, tone in enumerate(asked.wanted):
        assert asked.texts[i] == world.captions(tone)[0]
        wave = sound(tone, Draws((i,), 5), 4000, 1024)
        assert set(read(wave, tone).values()) == {1}
        note = NOTES[(NOTES.index(tone.note) + 1) % 12]
        for name, wrong in (
            ("pitch", tone._replace(note=note)),
            ("timbre", tone._replace(timbre={"pure": "hollow"}.get(tone.timbre, "pure"))),
            ("envelope", tone._replace(envelope={"fading": "steady"}.get(tone.envelope, "fading"))),
        ):
            found = read(wave, wrong)
            assert [key for key, value in found.items() if not value] == [name, "all"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("rate=3000", "rate must be above 3322 a second, got 3000"),
        ("length=100", "length must be at least 182, got 100"),
        ("test=0", "train and test must be at least 1, got 20000 and 0"),
    ],
)
def test_wrong_numbers_are_named(options, message):
    with pytest.raises(DataError, match=message):
        build("data", f"tones({options})")
