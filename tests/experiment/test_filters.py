"""What filters drop: planted copies, wrong classes, refused words; all counted."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import shapes as shapes_config
from score_sde import sampling, solvers
from score_sde.data import Arrays, gather
from score_sde.errors import ConfigError
from score_sde.experiment import coding, drawing, filters, workdirs
from score_sde.experiment.build import build_experiment
from score_sde.modes.sample import sample
from score_sde.processes import VP
from score_sde.processes.exact import Dataset
from score_sde.sampling import grids
from tests.modes.test_guided_modes import classifier, put, small
from tests.stored import arrays


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    root = tmp_path_factory.mktemp("filters")
    return {
        "classes": put(small(), root / "classes"),
        "classifier": put(classifier(), root / "classifier"),
    }


def test_a_threshold_keeps_its_rate():
    """Of uniform ratios the threshold is the share of new ones below it, and the k-th least of n is
    k / (n + 1) in the mean; of another law the share is the same."""
    rng = np.random.default_rng(0)
    for n, rate, k in ((99, 0.05, 5), (120, 0.05, 6), (99, 0.01, 1)):
        found = [filters.threshold(rng.uniform(size=n), rate) for _ in range(2000)]
        # the k-th least is Beta(k, n + 1 - k); four standard errors of the mean
        mean = k / (n + 1)
        assert np.mean(found) == pytest.approx(mean, abs=4 * np.sqrt(mean / (n + 2) / 2000))
    ratios = rng.exponential(size=99)
    assert np.mean(ratios < filters.threshold(ratios, 0.05)) <= 0.05


def shown_of(experiment, source, numbers):
    raw = gather(source, np.asarray(numbers))[experiment.codec.part]
    return coding.shown_raw(experiment.codec, raw)


@pytest.fixture(scope="module")
def digits():
    """The digits, with 300 training examples taken away, which nothing has seen."""
    experiment = build_experiment(small())
    everything = gather(experiment.data.train, np.arange(len(experiment.data.train)))
    order = np.random.default_rng(0).permutation(len(everything["label"]))
    fresh, train = (
        Arrays(**{k: a[i] for k, a in everything.items()}) for i in np.split(order, [300])
    )
    data = dataclasses.replace(experiment.data, train=train)
    return experiment._replace(data=data), fresh


def test_planted_copies_are_found_and_new_images_kept(digits):
    """All copies, exact or with noise of 2 of 255; of new images about the share of the rate."""
    experiment, fresh = digits
    rate = 0.05
    filter_ = filters.copies(small(), experiment, rate=rate)
    planted = shown_of(experiment, experiment.data.train, range(200))
    noise = np.random.default_rng(1).integers(-2, 3, planted.shape)
    noisy = np.clip(planted.astype(int) + noise, 0, 255).astype(np.uint8)
    assert not filter_.shown(planted, {}).any()
    assert not filter_.shown(noisy, {}).any()
    dropped = 1 - np.mean(filter_.shown(shown_of(experiment, fresh, range(300)), {}))
    n = filter_.about["held_out"]
    # three standard deviations: of the threshold's share, and of 300 new images
    assert dropped <= rate + 3 * np.sqrt(rate * (1 / n + 1 / 300))
    assert 0 < filter_.about["share_of_held_out"] <= rate


def test_samples_of_a_model_that_memorises_are_found(digits):
    """The denoiser of 50 training images is known, and its samples are these images. All are found,
    at a rate of 1 % that is measured on 250 images; of 500 new images about that share."""
    experiment, _ = digits
    everything = gather(experiment.data.train, np.arange(1050))
    order = np.random.default_rng(2).permutation(1050)
    train, test, fresh = (
        Arrays(**{k: a[i] for k, a in everything.items()}) for i in np.split(order, [50, 550])
    )
    data = dataclasses.replace(experiment.data, train=train, test=test)
    rate, n = 0.01, 250
    filter_ = filters.copies(small(), experiment._replace(data=data), rate=rate)
    assert filter_.about["held_out"] == n
    shown = shown_of(experiment, train, range(50))
    points = coding.located(experiment.codec, shown)
    sde = VP(t_min=1e-3)
    denoiser, solver = Dataset(jnp.asarray(points)).denoiser(sde), solvers.dpmpp(sde)

    @jax.jit
    def drawn(noise):
        times = grids.log_snr(sde, 20)
        return sampling.sample(jax.random.key(0), solver, denoiser, noise, times, denoise=True).x

    x = drawn(sde.prior_sample(jax.random.key(0), (400, *points.shape[1:])))
    samples = coding.shown(experiment.codec, x)
    same = (samples[:, None] == shown[None]).all(axis=(2, 3, 4))
    assert same.any(axis=1).all()  # each is a training image
    assert same.any(axis=0).sum() > 40  # and most training images are drawn
    assert not filter_.shown(samples, {}).any()
    dropped = 1 - np.mean(filter_.shown(shown_of(experiment, fresh, range(500)), {}))
    # three standard deviations: of the threshold's share, and of 500 new images
    assert dropped <= rate + 3 * np.sqrt(rate * (1 / n + 1 / 500))


def test_copies_of_mirrored_images(digits):
    experiment, _ = digits
    mirrored = shown_of(experiment, experiment.data.train, range(64))[:, :, ::-1]
    plain, both = (
        filters.copies(small(), experiment, mirrored=each).shown(mirrored, {})
        for each in (False, True)
    )
    assert plain.any()
    assert not both.any()


def test_a_classifier_keeps_the_class_that_was_asked_for(dirs):
    """By the softmax of its logits at its least time, of x scaled as the process has it then."""
    experiment = build_experiment(small())
    config = small()
    judge, params, _ = workdirs.restore(classifier(), dirs["classifier"])
    images = shown_of(experiment, experiment.data.test, range(40))
    labels = gather(experiment.data.test, np.arange(40))["label"].copy()
    labels[::8] = -1
    sde = judge.model.sde
    t = jnp.full(40, sde.t_min, jnp.float32)
    x = jnp.asarray(images, jnp.float32) / 255 * 2 - 1
    logits = jax.jit(functools.partial(judge.model.network, jax.device_get(params)))(
        x * sde.alpha(t)[:, None, None, None], t
    )
    p = np.asarray(jax.nn.softmax(logits))[np.arange(40), labels]
    middle = float(np.median(p))
    found = filters.classifier(config, experiment, workdir=str(dirs["classifier"]), p=middle)
    clear = (abs(p - middle) > 1e-3) & (labels >= 0)  # 255 levels of 17 round a little
    keep = found.shown(images, {"labels": labels})
    np.testing.assert_array_equal(keep[clear], (p > middle)[clear])
    assert keep[labels < 0].all()
    assert 5 < keep[clear].sum() < clear.sum() - 5


def texts_config(**changes):
    config = shapes_config.get_config()
    config.codec = "pixels()"
    config.update_from_flattened_dict(changes)
    return config


def test_words_are_refused_before_anything_is_drawn():
    config = texts_config()
    found = filters.words(config, build_experiment(config), refused=("gun", "bad  Thing"))
    refused = ("a GUN.", "two bad things? a bad\nthing", "\uff47\uff55\uff4e", "gun")
    kept = ("it has begun", "guns", "bad", "a thing", "")
    assert found.prompts([*refused, *kept]).tolist() == [False] * 4 + [True] * 5
    config = texts_config(
        **{
            "sampling.prompts": ("a red circle", "a gun", "a blue square"),
            "sampling.num_samples": 8,
            "sampling.filters": ("words(refused=('gun',))",),
        }
    )
    experiment = build_experiment(config)
    numbers, counts = filters.allowed(config, experiment, filters.build_filters(config, experiment))
    assert numbers.tolist() == [0, 2, 3, 5, 6]
    assert counts == {"words(refused=('gun',))": 3}


@pytest.fixture
def planting(monkeypatch):
    """Puts training images in the place of the samples 3 and 17."""
    batches_of = drawing.batches_of

    def planted(config, experiment, params, numbers, done=0, *of):
        for batch in batches_of(config, experiment, params, numbers, done, *of):
            copies = shown_of(experiment, experiment.data.train, range(2))
            shown = batch.shown.copy()
            for number, copy in zip((3, 17), copies, strict=True):
                if done <= number < done + len(shown):
                    shown[number - done] = copy
            done += len(shown)
            yield batch._replace(shown=shown)

    monkeypatch.setattr(drawing, "batches_of", planted)


def test_what_is_dropped_is_counted_and_nothing_takes_its_place(dirs, tmp_path, planting, capsys):
    """In samples.npz and in a data set, whose images keep their numbers."""
    spec, folder = "copies(rate=0.01)", tmp_path / "set"
    asked = {"sampling.labels": (3, 1), "sampling.filters": (spec,)}
    sample(small(**{**asked, "sampling.filters": ()}), dirs["classes"])
    everything = arrays(dirs["classes"] / "samples.npz")
    result = sample(small(**asked), dirs["classes"])
    assert f"sampling.filters: {spec} dropped 2 of 20" in capsys.readouterr().out
    assert (result["num_samples"], result["filters"][spec]["dropped"]) == (18, 2)
    kept = np.delete(np.arange(20), [3, 17])
    found = arrays(dirs["classes"] / "samples.npz")
    for name in ("samples", "labels"):
        np.testing.assert_array_equal(found[name], everything[name][kept])
    sample(small(**asked, **{"sampling.as_data": str(folder)}), dirs["classes"])
    assert [int(path.stem) for path in sorted(folder.glob("*.png"))] == kept.tolist()
    card = json.loads((folder / "card.json").read_text())
    assert card["filters"] == result["filters"]
    assert card["num_samples"] == 18
    assert len(card["made_by"]["filters"][spec]["train"]) == 64  # SHA-256


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("words(refused=('gun',))", "words refuses prompts, and the conditioner labels reads none"),
        ("copies(rate=0.001)", r"rate=0\.001 needs 999 held-out images that measure it"),
        ("copies(rate=2.0)", r"rate=2\.0 is not between 0 and 1"),
        ("classifier(workdir='CLASSES')", "and this filter needs a classifier"),
        ("classifier(workdir='CLASSIFIER', p=1.0)", r"p=1\.0 is not a probability below 1"),
        ("copy", "unknown name 'copy'; did you mean 'copies'"),
    ],
)
def test_a_mistake_is_one_line(dirs, digits, spec, message):
    for name, path in dirs.items():
        spec = spec.replace(name.upper(), str(path))
    config = small(**{"sampling.filters": (spec,)})
    with pytest.raises(ConfigError, match=message) as error:
        filters.build_filters(config, digits[0])
    assert "\n" not in str(error.value)


def test_nothing_left_is_an_error(dirs):
    """A classifier that is never sure."""
    spec = f"classifier(workdir='{dirs['classifier']}', p=0.9999999)"
    config = small(**{"sampling.labels": (3,), "sampling.filters": (spec,)})
    with pytest.raises(ConfigError, match="drop all of 20 samples"):
        sample(config, dirs["classes"])
