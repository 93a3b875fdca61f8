"""ControlNets as adapters: from training to samples, several at once, over digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import digits_dit
from score_sde.conditioning.hints import HINTS, outline
from score_sde.data import digits
from score_sde.errors import ConfigError
from score_sde.experiment import build, digests, workdirs
from score_sde.modes.sample import sample
from score_sde.modes.train import train
from score_sde.runtime.checkpoint import Checkpoints
from tests.stored import arrays


def tiny(**changes):
    config = digits_dit.get_config()
    config.net.update(width=16, depth=2, num_heads=1, num_classes=10)
    config.objective.drop_cond = 0.1
    config.train.update(steps=4, batch_size=16, log_every=2, checkpoint_every=4, sample_every=0)
    config.sampling.update(solver="ddim", grid="uniform", steps=3, num_samples=8, batch_size=8)
    config.sampling.update(labels=(3,), t_min=None)
    config.update_from_flattened_dict(changes)
    return config


def controlled(folder, of="outline", **changes):
    return tiny(
        adapter=f"controlnet(workdir='{folder}/base', hint='{of}', depth=1, hint_features=1)",
        conditioner=f"hints(text='labels', of=('{of}',))",
        **changes,
    )


def store(config, workdir, params):
    """A workdir with these parameters, averages included."""
    experiment = workdirs.load(config)
    state = build.initial_state(config, experiment)
    copies = len(state.ema)
    workdir.mkdir()
    workdirs.store_config(config, workdir)
    digests.store(experiment, workdir)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(1, state.replace(params=params, ema=(params,) * copies), None, {})
    checkpoints.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base of random parameters; a ControlNet by the outline of 4 steps; and two that are random
    too, for after 4 steps a network says little."""
    folder = tmp_path_factory.mktemp("controlled")
    of_hints = {"loud": controlled(folder), "other": controlled(folder, "picture")}
    for seed, (name, config) in enumerate([("base", tiny()), *of_hints.items()]):
        start = build.initial_state(config, workdirs.load(config)).params
        leaves, tree = jax.tree.flatten(jax.device_get(start))
        rng = np.random.default_rng(seed)
        random = [a + 0.2 * rng.normal(size=a.shape).astype(a.dtype) for a in leaves]
        store(config, folder / name, jax.tree.unflatten(tree, random))
    train(controlled(folder), folder / "outline")
    return folder


def drawn(config, workdir):
    sample(config, workdir)
    return arrays(workdir / "samples.npz")["samples"]


def test_an_outline_is_where_a_pixel_differs_from_its_neighbours():
    """Of a square of 3 pixels on a plain ground: the square's rim and the pixels around it. A step
    of less than a quarter of the range has none."""
    shown = np.zeros((2, 8, 8, 3), np.float32)
    shown[0, 2:5, 2:5, 1] = 1.0
    shown[1, 2:5, 2:5, 1] = 0.2
    truth = np.zeros((2, 8, 8, 1))
    truth[0, 1:6, 1:6] = 1
    truth[0, 3, 3] = 0
    np.testing.assert_array_equal(outline(jnp.asarray(shown)), truth)


def test_an_untrained_one_is_its_base_bit_for_bit(folder):
    config = controlled(folder)
    experiment = workdirs.load(config)
    base = workdirs.restore(tiny(), folder / "base")
    start = build.initial_state(config, experiment).params
    x = jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
    cond = {"label": jnp.zeros(8, int)}
    told = {**cond, "outline": jnp.ones((8, 8, 8, 1))}
    ours = experiment.objective.result(start, told)(x, jnp.float32(0.5))
    truth = base.experiment.objective.result(base.params, cond)(x, jnp.float32(0.5))
    np.testing.assert_array_equal(ours, truth)


def test_training_changes_the_small_tree_and_not_the_base(folder):
    """The checkpoint holds no parameter of the base, whose digest stays."""
    trained = workdirs.restore(controlled(folder), folder / "outline")
    base = workdirs.restore(tiny(), folder / "base")
    assert trained.experiment.base_digest == base.digest
    own = {path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(trained.params)}
    assert own == {"blocks", "embed_0", "embed_1", "embed_label", "embed_patch"} | {
        "hint_in",
        "hint_out",
    }
    told = trained.params["blocks"]["told"]["kernel"]
    assert np.abs(told).max() > 0


def test_samples_go_by_the_hint(folder, tmp_path):
    """Other images give other hints. Those of the test examples are taken in turn where none are
    given."""
    found = {}
    for name, values in (("dark", 0), ("bright", 255), ("edge", None)):
        picture = np.full((8, 8), values or 0, np.uint8)
        if values is None:
            picture[:, 4:] = 255
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        config = controlled(folder, **{"sampling.images": str(tmp_path / f"{name}.png")})
        found[name] = drawn(config, folder / "loud")
    np.testing.assert_array_equal(found["dark"], found["bright"])  # neither has an outline
    assert np.any(found["dark"] != found["edge"])
    image = np.asarray(digits().test[0]["image"])
    in_turn = drawn(controlled(folder), folder / "loud")
    Image.fromarray((image[..., 0] * 255.0 / 16).astype(np.uint8)).save(tmp_path / "first.png")
    config = controlled(folder, **{"sampling.images": str(tmp_path / "first.png")})
    np.testing.assert_array_equal(in_turn[0], drawn(config, folder / "loud")[0])


def test_several_act_as_their_weights_and_intervals_say(folder):
    """Weights of 0, and intervals without a step of the sampler, leave the base bit for bit; one of
    two alone is that one."""

    def of_base(names, **fields):
        named = tuple(str(folder / name) for name in names)
        fields = {f"sampling.{name}": value for name, value in fields.items()}
        return drawn(tiny(**{"sampling.adapters": named, **fields}), folder / "base")

    plain, both = drawn(tiny(), folder / "base"), of_base(("loud", "other"))
    alone = of_base(("loud",))
    assert np.any(both != plain)
    assert np.any(both != alone)
    np.testing.assert_array_equal(alone, drawn(controlled(folder), folder / "loud"))
    np.testing.assert_array_equal(of_base(("loud", "other"), adapter_weights=(0.0, 0.0)), plain)
    np.testing.assert_array_equal(of_base(("loud", "other"), adapter_weights=(1.0, 0.0)), alone)
    never, always = (2.0, 3.0), (0.0, 1.0)
    np.testing.assert_array_equal(
        of_base(("loud", "other"), control_intervals=(always, never)), alone
    )
    assert np.any(of_base(("loud",), control_deeper=True) != alone)


def test_mistakes_are_told(folder):
    for config, message in (
        (controlled(folder, "colour"), "there is no hint 'colour': one of outline, picture"),
        (tiny(adapter=f"controlnet(workdir='{folder}/base')"), r"needs cond\['outline'\]"),
        (controlled(folder, **{"net.name": "mlp.MLP"}), "MLP|net"),
    ):
        with pytest.raises(ConfigError, match=message):
            build.abstract_state(workdirs.load(config))
    named = {"sampling.adapters": (str(folder / "loud"),)}
    with pytest.raises(ConfigError, match="control_intervals has 2 entries for 1"):
        sample(tiny(**named, **{"sampling.control_intervals": ((0, 1), (0, 1))}), folder / "base")
    with pytest.raises(ConfigError, match=r"sampling\.images=.*reads none"):
        sample(tiny(**{"sampling.images": "picture.png"}), folder / "base")


def test_every_hint_is_from_0_to_1():
    shown = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 8, 8, 3)), jnp.float32)
    for hint in HINTS.values():
        found = hint(shown)
        assert found.shape[:3] == (2, 8, 8)
        assert 0 <= found.min() <= found.max() <= 1
