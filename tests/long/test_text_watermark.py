"""A watermark in text to image, from `sample` to `detect`, of pictures stored as PNG and JPEG.

The output of an untrained transformer is 0, so it is the exact denoiser of latents N(0, 1/16),
whatever the prompt and the guidance are. Sampling and inversion then scale the noise, and the
p-values of the marked noise are known.
"""

import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from configs import digits
from score_sde.experiment import workdirs
from score_sde.experiment.base import net_fields
from score_sde.modes import detect, sample
from score_sde.nets.dit import DiT
from tests import latents

SIZE, P_VALUE = 16, 1e-12


def frozen(folder):
    """An autoencoder whose latents are the pixels."""
    return latents.frozen(latents.Blocks(1), folder)


def config_of(**changes):
    config = digits.get_config()
    config.data = {"name": "absent", "image_size": SIZE, "channels": 3, "num_captions": 1}
    config.codec = "autoencoder(workdir='one')"
    words = "words(names=('a', 'red', 'ring'), length=4)"
    config.conditioner = f"text(tokenizer={words!r})"
    config.net = net_fields("dit.DiT", DiT)
    config.net.update(patch_size=4, width=8, depth=1, num_heads=1)
    config.net.update(context="cross", vocabulary=4, text_depth=0)
    config.parametrization, config.c_noise = "edm(sigma_data=0.25)", "log_snr(scale=0.1)"
    config.train.update(batch_size=8, ema_rates=(0.9,))
    config.sampling.update(solver="dpmpp", grid="log_snr", steps=3, batch_size=128)
    config.sampling.update(guidance="classifier_free(weight=2.0)", prompts=("a red ring", "a ring"))
    config.objective.drop_cond = 0.1
    config.watermark.update(p_value=P_VALUE, method="Bosh3", rtol=1e-2, atol=1e-2, resize=True)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The p-values that `detect` finds in a folder of pictures, by the kind of picture."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "pictures").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workdirs, "load_frozen", frozen)
        latents.untrained(config_of(), folder)
        for name, key, seed, number in (("marked", 5, 0, 40), ("plain", None, 1, 200)):
            options = {"watermark.key": key, "seed": seed, "sampling.num_samples": number}
            config = config_of(**options)
            config.sampling.as_data = str(folder / name)
            sample.sample(config, folder)
        for i, path in enumerate(sorted((folder / "marked").glob("*.png"))):
            image, to = Image.open(path), folder / "pictures"
            image.save(to / f"png_{i}.png")
            image.save(to / f"jpeg_{i}.jpg", quality=75, subsampling=0)
            half = image.resize((SIZE // 2, SIZE // 2), Image.Resampling.BOX)
            half.save(to / f"half_{i}.png")
        for i, path in enumerate(sorted((folder / "plain").glob("*.png"))):
            Image.open(path).save(folder / "pictures" / f"plain_{i}.png")
        config = config_of(**{"watermark.key": 5, "watermark.images": str(folder / "pictures")})
        detect.detect(config, folder)
        each = json.loads((folder / "detect.json").read_text())["p_values"]
    kinds = sorted({name.split("_")[0] for name in each})
    return {
        kind: np.array([p for name, p in each.items() if name.startswith(f"{kind}_")])
        for kind in kinds
    }


def test_the_p_values_of_marked_pictures_are_known(found):
    """Uniform below P_VALUE. Rounding to 8 bits adds 0.9 % of noise, which moves the logarithm of a
    p-value by 0.06: the cosine is 7 of its own errors."""
    p = found["png"] / P_VALUE
    assert len(p) == 40
    assert np.all(p < 1.5)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_pictures_without_the_key_have_uniform_p_values(found):
    """For one key, since their noise is white. Kolmogorov and Smirnov at 1e-3."""
    assert len(found["plain"]) == 200
    assert stats.kstest(found["plain"], "uniform").pvalue > 1e-3


@pytest.mark.parametrize("kind", ["jpeg", "half"])
def test_the_key_is_found_after_jpeg_and_resizing(kind, found):
    """At a rate of false alarms of 1 in 1,000: 40 of 40 are at least 91 % at 95 %."""
    assert len(found[kind]) == 40
    assert np.all(found[kind] < 1e-3)
