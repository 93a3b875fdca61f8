"""A studio draws and edits what the command of each figure draws and edits, bit for bit."""

import shlex
import shutil
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from score_sde.app import asking, painting, studio
from score_sde.app.offers import offers
from score_sde.app.studio import Studio, steps_done
from score_sde.app.watching import StoppedError, Watch
from score_sde.errors import ConfigError, DataError
from score_sde.experiment import samplers
from score_sde.modes.edit import edit
from score_sde.modes.sample import sample
from score_sde.modes.train import train
from tests.app.test_asking import parsed
from tests.modes.test_train import small
from tests.stored import arrays

CONFIG = """
from tests.app.test_studio import settings

def get_config():
    return settings()
"""


def settings(**changes):
    """A perceptron of digits by class."""
    return small(
        **{
            "net.num_classes": 10,
            "objective.drop_cond": 0.1,
            # a network of a few steps is nearly the denoiser of N(0, 0.16), so pixels are not cut
            "parametrization": "edm(sigma_data=0.4)",
            "c_noise": "log_snr(scale=0.1)",
            "sampling.batch_size": 16,
            "edit.method": "pigdm(data_std=0.4)",
        }
        | changes
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    (workdir / "config_file.py").write_text(CONFIG)
    train(settings(), workdir)
    return workdir


@pytest.fixture(scope="module")
def ours(workdir):
    again = ["python", "main.py", f"--config={workdir}/config_file.py", f"--workdir={workdir}"]
    return Studio(settings(), workdir, again)


def drawing(**changes):
    asked = {
        "wanted": "3 5",
        "unwanted": "",
        "guidance": "classifier_free(weight=2.0)",
        "solver": "dpmpp",
        "grid": "log_snr",
        "steps": 4,
        "samples": 8,
        "seed": 1,
        "files": False,
    }
    return asking.drawing("labels", **asked | changes)


@pytest.fixture
def repeated(workdir, tmp_path, monkeypatch):
    """What the command of a figure writes, in a copy of the workdir."""

    def repeat(figure, mode):
        words = shlex.split(figure.command)
        assert words == shlex.split((figure.folder / "command.txt").read_text())
        found, config = parsed(figure.command, monkeypatch)
        assert found == [mode.__name__]
        copy = shutil.copytree(workdir, tmp_path / "copy", ignore=shutil.ignore_patterns("app"))
        mode(config, copy)
        return copy

    return repeat


@pytest.mark.parametrize("solver", ["dpmpp", "euler_maruyama"])
def test_the_command_draws_the_same_samples(ours, repeated, solver):
    watch = Watch()
    figure = ours.sample(drawing(solver=solver, unwanted="7"), watch)
    copy = repeated(figure, sample)
    assert set(figure.files) > {figure.folder / "samples.npz", figure.picture}
    for name in ("samples.npz", "samples.png"):
        assert (copy / name).read_bytes() == (figure.folder / name).read_bytes()
    assert arrays(figure.folder / "samples.npz")["labels"].tolist() == [3, 5] * 4
    assert watch.newer(0.0).calls == 5  # a step each, and the end
    assert "5 network evaluations a sample" in figure.about


def test_the_command_edits_the_same_images(ours, repeated):
    keep = np.ones((8, 8), bool)
    keep[2:6, 1:7] = False
    image = ours.examples(3)[2]
    files = [ours.input(painting.png(a), ".png") for a in (image, keep)]
    asked = {
        **drawing(solver="dpmpp_sde"),
        "edit.task": f"inpaint(keep={str(files[1])!r})",
        "edit.images": str(files[0]),
        "edit.num_images": 1,
        "edit.completions": 2,
    }
    figure = ours.edit(asked, Watch())
    copy = repeated(figure, edit)
    found, wanted = (arrays(folder / "edit.npz") for folder in (figure.folder, copy))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    np.testing.assert_array_equal(found["source"][0], image)
    known = np.broadcast_to(image[keep], (1, 2, *image[keep].shape))
    np.testing.assert_array_equal(found["results"][:, :, keep], known)
    assert len(figure.parts) == 2


def test_a_second_press_compiles_what_is_new_in_it(ours, monkeypatch):
    built = []
    build = samplers.build_sampler

    def counted(config, experiment, size):
        sampler = build(config, experiment, size)
        built.append(sampler)
        return sampler

    monkeypatch.setattr(samplers, "build_sampler", counted)
    for changes in ({}, {"seed": 2}, {"wanted": "1 2"}, {"unwanted": "4"}, {"unwanted": "6"}):
        ours.sample(drawing(steps=2, **changes), Watch())
    plain, negative = built  # with and without what guidance leads away from
    assert [plain.func._cache_size(), negative.func._cache_size()] == [1, 1]
    first = ours.sample(drawing(steps=2), Watch())
    other = ours.sample(drawing(steps=2, seed=2), Watch())
    assert np.abs(first.x - other.x).max() > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wanted": "12"}, "sampling.labels: label 12 is none of the 10 classes 0 to 9"),
        ({"solver": "dpmp"}, "solvers: unknown name 'dpmp'; did you mean 'dpmpp'"),
        ({"solver": "flow_map"}, "sampling.solver=flow_map asks for a flow map"),
        ({"solver": "__import__('os').system('x')"}, "should read name or name"),
        ({"grid": "karas"}, "unknown name 'karas'; did you mean 'karras'"),
        ({"unwanted": "3", "guidance": "unguided"}, "needs guidance that leads away from it"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(ours, changes, message):
    before = sorted(ours.root.iterdir())
    with pytest.raises(ConfigError) as error:
        ours.sample(drawing(**changes), Watch())
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert sorted(ours.root.iterdir()) == before


def test_a_solver_that_draws_noise_has_no_reference(ours):
    ours.check_reference(drawing())
    with pytest.raises(ConfigError, match="euler_maruyama draws noise, so it has no reference"):
        ours.check_reference(drawing(solver="euler_maruyama"))


def test_two_sessions_do_not_mix(ours):
    """Each hears of its own samples alone, also of a program that both run."""
    asked = {seed: drawing(seed=seed, samples=8) for seed in (5, 6)}
    alone = {seed: ours.sample(each, Watch()).x for seed, each in asked.items()}
    found, watches = {}, {seed: Watch() for seed in asked}

    def run(seed):
        found[seed] = ours.sample(asked[seed], watches[seed]).x

    threads = [threading.Thread(target=run, args=(seed,)) for seed in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in asked:
        np.testing.assert_array_equal(found[seed], alone[seed])
        seen = watches[seed].newer(0.0)
        assert seen.calls == 5
        np.testing.assert_array_equal(seen.estimate, alone[seed])


def test_nobody_waits_for_what_is_stopped(ours):
    watch = Watch()
    watch.stopped = True
    with pytest.raises(StoppedError):
        ours.sample(drawing(), watch)


def test_old_figures_are_removed(ours, monkeypatch):
    monkeypatch.setattr(studio, "KEPT", 2)
    folders = []
    for _ in range(3):
        with ours._folder() as folder:
            folders.append(folder)
    numbers = sorted(path.name for path in ours.root.iterdir() if path.name.isdigit())
    assert numbers == [folder.name for folder in folders[1:]]


def test_a_preview_is_the_picture_of_the_estimates(ours, tmp_path):
    watch = Watch()
    figure = ours.sample(drawing(), watch)
    path = ours.preview(watch.newer(0.0), 8, tmp_path / "preview.png")
    # the last call of all is the end
    np.testing.assert_array_equal(
        np.asarray(Image.open(path)), np.asarray(Image.open(figure.picture))
    )


def test_steps_are_counted_along_the_grid(ours):
    times = ours.times(drawing(steps=4, grid="uniform"))
    np.testing.assert_allclose(times, np.linspace(1, 0.001, 5), rtol=1e-5)
    assert [steps_done(times, float(t)) for t in times] == [0, 1, 2, 3, 4]
    assert steps_done(times, 0.6) == 2  # within the second step


def test_offers_are_what_fits(ours):
    found = offers(ours.config, ours.experiment)
    assert found.field == "labels"
    assert found.image == (8, 8, 1)
    assert found.latents
    assert not found.sound
    assert found.solvers[0] == "ddim"  # the config's own
    assert {"dpmpp", "heun", "euler_maruyama"} < set(found.solvers)
    assert not {"unmask", "flow_map", "tau_leaping"} & set(found.solvers)
    assert {"unguided", "classifier_free", "apg"} < set(found.guidances)
    assert "geometric" not in found.guidances  # of tokens
    assert "trailing" not in found.grids  # of chains
    for name in found.solvers:
        assert ours.times(drawing(solver=name)).shape == (5,)


def test_paint_becomes_a_mask():
    layer = np.zeros((80, 80, 4), np.uint8)
    layer[20:60, 30:50, 3] = 255  # over the pixels 2 to 5 and 3 to 4
    layer[0:10, 70:72, 3] = 255  # a fifth of a pixel
    keep = painting.known([Image.fromarray(layer)], (8, 8, 1))
    wanted = np.ones((8, 8), bool)
    wanted[2:6, 3:5] = False
    np.testing.assert_array_equal(keep, wanted)
    for alpha, message in ((0, "nothing is painted"), (255, "all of the image is painted")):
        layer[..., 3] = alpha
        with pytest.raises(DataError, match=message):
            painting.known([Image.fromarray(layer)], (8, 8, 1))


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 3), (6, 12, 3)])
def test_an_enlarged_picture_is_what_it_was(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(painting.image_of(painting.enlarged(image), shape), image)


def test_a_picture_of_other_sides():
    with pytest.raises(DataError, match="has 30x30 pixels, and the model's images are 12x6"):
        painting.image_of(Image.new("RGB", (30, 30)), (6, 12, 3))
