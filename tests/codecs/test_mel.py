"""Mel spectrograms against librosa's; sounds come back with their pitch."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from score_sde.codecs import spectra
from score_sde.codecs.codec import Codec
from score_sde.codecs.mel import mel
from score_sde.config import build
from score_sde.data.tones_reading import cents, read_tone
from score_sde.types import Feature
from tests.stored import arrays

GOLDEN = Path(__file__).parent.parent / "golden/mel_librosa.npz"
CASES = ("vocoder", "htk", "mixed")
TONES = {"sound": Feature((1024, 1))}
SMALL = {"rate": 4000, "window": 256, "hop": 64, "mels": 64, "iterations": 100}


def case(name):
    return json.loads(str(arrays(GOLDEN)["cases"]))[name]


@pytest.mark.parametrize("name", CASES)
def test_is_what_librosa_gives(x64, name):
    """To 1e-5 in the logarithm, which float32 holds to 1e-6. In float32 the transform of a frame
    has errors of some eps of its largest number: so to 1e-4 where a filter has at least 1/100 of
    the largest of its frame. The stored spectrograms are by tests/golden/make_mel.py."""
    golden = arrays(GOLDEN)
    rate, window, hop, mels, low, high, scale, norm, power = case(name)
    codec = mel(
        {"sound": Feature((4000, 2))},
        rate=rate,
        window=window,
        hop=hop,
        mels=mels,
        low=low,
        high=high,
        scale=scale,
        norm=norm,
        power=power,
        mean=0.0,
        std=1.0,
    )
    assert isinstance(codec, Codec)
    sound = golden["sound"][None]
    x, single = (codec.encode(jax.random.key(0), a)[0] for a in (sound.astype(float), sound))
    assert x.shape == codec.shape
    assert x.dtype == jnp.float32
    truth = np.log(np.maximum(golden[f"{name}_mel"], 1e-5))  # [channels, mels, frames]
    assert np.mean(truth > np.log(1e-5)) > 0.5
    truth = np.moveaxis(truth, (0, 1, 2), (2, 1, 0))
    np.testing.assert_allclose(x, truth, rtol=0, atol=1e-5)
    loud = truth > truth.max(axis=1, keepdims=True) - np.log(100)
    assert np.mean(loud) > 0.1
    np.testing.assert_allclose(single[loud], truth[loud], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_filters_are_those_of_librosa(name):
    rate, window, _, mels, low, high, scale, norm, _ = case(name)
    filters = spectra.mel_filters(rate, window, mels, low, high, scale, norm)
    # librosa rounds what it stores of corners to float32
    np.testing.assert_allclose(filters.sum(axis=0), arrays(GOLDEN)[f"{name}_filters"], rtol=1e-6)


@pytest.mark.parametrize("scale", spectra.SCALES)
def test_scales_have_an_inverse_and_1000_mels_at_1000_hz_in_htk(scale):
    to_mel, to_hz = spectra.SCALES[scale]
    hz = np.linspace(0, 20_000, 1001)
    np.testing.assert_allclose(to_hz(to_mel(hz)), hz, rtol=1e-12, atol=1e-9)
    assert to_mel(np.array(1000.0)) == pytest.approx({"htk": 1000, "slaney": 15}[scale], rel=1e-4)


def test_transforms_invert(x64):
    """Every transform of a sound gives the sound; scipy's has the same numbers."""
    frames = spectra.Frames(1000, 64, 16)
    sound = np.random.default_rng(0).normal(size=(2, 1000))
    found = spectra.transform(jnp.asarray(sound), frames)
    np.testing.assert_allclose(spectra.inverse(found, frames), sound, atol=1e-12)
    window = scipy.signal.get_window("hann", 64)
    theirs = scipy.signal.ShortTimeFFT(window, 16, 1.0).stft(sound, p0=0, p1=frames.count)
    # theirs counts time from the start of the sound, ours from the start of the frame
    turn = np.exp(2j * np.pi * np.arange(33) * 32 / 64)
    ours = np.asarray(found) * turn
    np.testing.assert_allclose(
        np.abs(ours[:, 2:-2]), np.abs(np.swapaxes(theirs, 1, 2)[:, 2:-2]), atol=1e-12
    )


def inconsistency(magnitude, sound, frames):
    return float(jnp.linalg.norm(jnp.abs(spectra.transform(sound, frames)) - magnitude))


def test_without_momentum_the_error_never_grows(x64):
    """Griffin & Lim 1984, sec. III: each iteration decreases the distance of the magnitudes."""
    frames = spectra.Frames(1000, 64, 16)
    sound = jnp.asarray(np.random.default_rng(0).normal(size=1000))
    magnitude = jnp.abs(spectra.transform(sound, frames))
    errors = [
        inconsistency(magnitude, spectra.griffin_lim(magnitude, frames, n, momentum=0.0), frames)
        for n in range(12)
    ]
    assert all(b < a for a, b in itertools.pairwise(errors))
    fast = spectra.griffin_lim(magnitude, frames, 11)
    assert inconsistency(magnitude, fast, frames) < errors[-1]


def test_sounds_come_back_with_their_pitch():
    """Within 20 cents in 95 % of 60 tones, and nearly all with their envelope."""
    codec = build("codecs", {"name": "mel", **SMALL}, TONES)
    data = build("data", "tones(test=60)")
    raw = np.stack([data.test[i]["sound"] for i in range(60)])
    back = jax.jit(lambda x: codec.show(codec.decode(x)))(codec.middle(raw))
    assert back.shape == raw.shape
    pairs = [
        (read_tone(a, 4000), read_tone(b, 4000)) for a, b in zip(raw, np.asarray(back), strict=True)
    ]
    assert np.mean([abs(cents(b[1], a[1])) < 20 for a, b in pairs]) >= 0.95
    assert np.mean([a[0].envelope == b[0].envelope for a, b in pairs]) >= 0.95


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_decode_has_a_slope(x64, power):
    """Along a direction it is that of a difference; and channels do not mix."""
    options = {"rate": 4000, "window": 64, "hop": 16, "mels": 8, "iterations": 2, "power": power}
    codec = mel({"sound": Feature((256, 2))}, **options)
    random = np.random.default_rng(0)
    x, away = (jnp.asarray(0.3 * random.normal(size=codec.shape)) for _ in range(2))
    _, slope = jax.jvp(codec.decode, (x,), (away,))
    step = 1e-6
    truth = (codec.decode(x + step * away) - codec.decode(x - step * away)) / (2 * step)
    np.testing.assert_allclose(slope, truth, atol=1e-6 * np.abs(truth).max())
    other = codec.decode(x.at[..., 1].set(0))
    np.testing.assert_array_equal(other[:, 0], codec.decode(x)[:, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "bark"}, "there is no scale 'bark': one of slaney, htk"),
        ({"norm": "area"}, "there is no norm 'area': one of slaney, none"),
        ({"high": 3000.0}, r"frequencies go from 0 to 2000 Hz, and not from 0\.0 to 3000\.0"),
        ({"mels": 400}, "filters hold no frequency of a window of 256 numbers: take fewer mels"),
        ({"hop": 300}, "window must be even and hop at most half of it, not 256 and 300"),
        ({"floor": 0.0}, r"floor must be above 0, not 0\.0"),
        ({"part": "label"}, r"a sound is \[n, channels\], and label has the shape \(\)"),
    ],
)
def test_wrong_numbers_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        mel({**TONES, "label": Feature((), 2)}, **{**SMALL, **options})
