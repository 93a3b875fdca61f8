"""All modes on sounds, as waves and as spectrograms: nothing is told that they are sounds."""

import jax
import numpy as np
import pytest

from configs import tones
from score_sde.data.sound_files import read_sound
from score_sde.media import wav
from score_sde.modes.edit import edit
from score_sde.modes.evaluate import evaluate
from score_sde.modes.likelihood import likelihood
from score_sde.modes.sample import sample
from score_sde.modes.train import train
from tests.modes.test_train import equal, final_state
from tests.stored import arrays

CODECS = {  # and the patches of a network for it
    "waveform": ({"name": "waveform", "rate": 4000, "std": 0.12}, 32),
    "mel": (
        {"name": "mel", "rate": 4000, "window": 128, "hop": 32, "mels": 16, "iterations": 2},
        (9, 4),
    ),
}


def small(codec, **changes):
    config = tones.get_config()
    config.data = {"name": "tones", "length": 256, "train": 64, "test": 16, "augment": "none"}
    config.codec, patch = CODECS[codec]
    config.net = {**config.net.to_dict(), "patch_size": patch}
    config.net.update(width=16, depth=1, num_heads=2)
    config.train.update(batch_size=16, steps=4, checkpoint_every=2, sample_every=0, log_every=2)
    config.sampling.update(steps=3, num_samples=8, batch_size=8, files=2)
    config.likelihood.update(batch_size=16, rtol=0.1, atol=0.1)
    config.evaluate.update(parts=("loss", "adherence"), num_prompts=8)
    config.edit.update(task="forecast", num_images=2, completions=2)
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("codec", CODECS)
def test_every_mode_takes_sounds(codec, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(small(codec), whole)
    train(small(codec, **{"train.steps": 2}), parts)
    train(small(codec), parts)  # goes on
    ours, theirs = (final_state(small(codec), workdir) for workdir in (parts, whole))
    equal(ours.state, theirs.state)

    config = small(codec)
    assert sample(config, whole)["num_samples"] == 8
    drawn = arrays(whole / "samples.npz")["samples"]
    assert drawn.shape == (8, 256, 1)
    files = sorted((whole / "samples").iterdir())
    assert [file.name for file in files] == ["0000000.wav", "0000001.wav"]
    for file, shown in zip(files, drawn[:2], strict=True):
        sound, rate = read_sound(file)
        assert rate == 4000
        assert wav.says_generated(file)
        np.testing.assert_allclose(sound, shown, atol=2**-15)  # half a step, one at 1
    sample(small(codec, **{"sampling.files": 0}), whole)
    assert not list((whole / "samples").iterdir())

    found = evaluate(config, whole)
    assert 0 <= found["tones"] <= 1
    assert np.isfinite(likelihood(config, whole)["nats"])
    edit(config, whole)
    done = arrays(whole / "edit.npz")
    known = jax.device_get(done["x"])[:, :, : done["x"].shape[2] // 2]
    np.testing.assert_array_equal(known, np.repeat(known[:, :1], 2, axis=1))
    if codec == "waveform":  # the beginning is that of the source, to the rounding of a product
        source = done["source"][:, None, :128]
        np.testing.assert_allclose(
            done["results"][:, :, :128], source + np.zeros((1, 2, 1, 1)), atol=1e-6
        )
    assert len(list((whole / "edit").glob("*.wav"))) == 4
