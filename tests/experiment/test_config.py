"""The door: names and options become objects, and mistakes become one line."""

import jax
import numpy as np
import pytest

from configs import base
from score_sde import solvers
from score_sde.config import build, parse
from score_sde.errors import ConfigError
from score_sde.experiment import build as experiment
from score_sde.processes import gaussian


def test_the_two_forms_of_a_spec_are_one():
    assert parse("VP(beta_max=10.0, t_min=1e-3)") == ("VP", {"beta_max": 10.0, "t_min": 1e-3})
    assert parse({"name": "VP", "beta_max": 10.0}) == ("VP", {"beta_max": 10.0})
    assert parse("ncsnpp.NCSNpp") == ("ncsnpp.NCSNpp", {})
    assert build("processes", "VP(beta_max=10.0)") == gaussian.VP(beta_max=10.0)
    assert build("processes", {"name": "VE", "sigma_max": 10.0}) == gaussian.VE(sigma_max=10.0)


def test_a_spec_is_never_executed(tmp_path):
    target = tmp_path / "touched"
    for spec in (
        f"VP(beta_max=open({str(target)!r}, 'w'))",
        f"open({str(target)!r}, 'w')",
        "VP(**{'a': 1})",
        "VP(1.0)",
        "VP; VE",
        "",
    ):
        with pytest.raises(ConfigError, match="should read name or name"):
            parse(spec)
    assert not target.exists()


@pytest.mark.parametrize(
    ("package", "spec", "message"),
    [
        ("processes", "VPP", "processes: unknown name 'VPP'; did you mean 'VP'.*Cosine, DDPM"),
        ("processes", "SDE", "unknown name 'SDE'"),
        ("processes", "_LogAlpha", "unknown name"),
        ("processes", "VP(beta=1.0)", "VP has no field 'beta'; did you mean 'beta_min'"),
        ("processes", {"beta_max": 1.0}, "lacks the field 'name'"),
        ("processes", "VP(t_min=2.0)", "VP: .*t_min must be below t_max"),
        ("processes", "VP(t_min=-0.1)", "VP: .*t_min must be below t_max, and not below 0"),
        ("processes", "VP(beta_max=1e999)", "VP.beta_max must be finite, not inf"),
        ("processes", {"name": "VP", "t_min": float("nan")}, "VP.t_min must be finite, not nan"),
        ("processes", "VE(sigma_min=0.0)", "VE: .*sigma_min must be above 0 and below sigma_max"),
        (
            "processes",
            "DDPM(num_steps=1000000000000)",
            "DDPM: num_steps must be from 2 to 1,000,000",
        ),
        ("processes", "DDPM(num_steps=1)", "DDPM: num_steps must be from 2"),
        (
            "processes.exact",
            "ring(components=1000000000000000)",
            "ring: .* asks for more memory than there is",
        ),
        ("solvers", "dpm++", r"should read name .*; did you mean 'dpmpp'\? .*unipc"),
        ("solvers", "dpm++(order=3)", "should read name .*; did you mean 'dpmpp'"),
        ("processes.exact", "-" * 10**5 + "1", "should read name or name"),
        ("nets", "NCSNpp", "unknown name 'NCSNpp'; did you mean 'ncsnpp.NCSNpp'"),
        ("nets", "nothing.Net", "unknown name 'nothing.Net'.*mlp.MLP"),
        (
            "nets",
            {"name": "ncsnpp.NCSNpp", "nff": 3},
            "NCSNpp has no field 'nff'; did you mean 'nf'",
        ),
        (
            "data",
            "cifar",
            "unknown name 'cifar'.*digits, emoji, encoded, folder, .*, tfds",
        ),
        ("data", "signal", "unknown name 'signal'; did you mean 'signals'"),
        ("codecs", "pixel", "unknown name 'pixel'; did you mean 'pixels'"),
        ("data", "folder", "folder needs the field.s. path, image_size"),
        ("training.weighting", "snr", "unknown name 'snr'.*min_snr"),
        ("training.time_law", "normal", "did you mean 'log_normal'"),
    ],
)
def test_mistakes_name_the_remedy(package, spec, message):
    with pytest.raises(ConfigError, match=message) as error:
        build(package, spec)
    assert "\n" not in str(error.value)


def test_solvers_are_built_for_a_process():
    solver = build("solvers", "predictor_corrector(corrector='annealed_langevin')", gaussian.VP())
    assert callable(solver.step)
    with pytest.raises(ConfigError, match="ddim has no field 'etta'; did you mean 'eta'"):
        build("solvers", "ddim(etta=1.0)", gaussian.VP())
    with pytest.raises(ConfigError, match=r"unknown name 'dpmp'.*'dpmpp'"):
        build("solvers", "dpmp", gaussian.VP())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ddim(eta=-1.0)", "eta must be at least 0, not -1.0"),
        ("dpmpp_sde(tau=-1.0)", "tau must be at least 0, not -1.0"),
        ("sa_solver(tau=-1.0)", "tau must be at least 0, not -1.0"),
        ("flow_map(gamma=1.5)", "gamma must be from 0 to 1.0, not 1.5"),
        ("ddim(eta=1e999)", "ddim.eta must be finite, not inf"),
        ("ddim(eta=(0.0, 1e999))", "ddim.eta must be finite, not inf"),
    ],
)
def test_numbers_that_no_solver_takes(spec, message):
    with pytest.raises(ConfigError, match=message):
        build("solvers", spec, gaussian.VP())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2**32}, "seed must be from 0 to 4294967295, not 4294967296"),
        ({"seed": -1}, "seed must be from 0 to 4294967295, not -1"),
        ({"sampling.num_samples": 0}, "sampling.num_samples must be at least 1, not 0"),
        ({"sampling.steps": 10**12}, "sampling.steps must be from 1 to 1000000"),
        ({"sampling.t_min": -0.5}, "sampling.t_min must be at least 0, not -0.5"),
        ({"sampling.t_min": float("nan")}, "sampling.t_min must be finite, not nan"),
        ({"sampling.tolerance": -1.0}, "sampling.tolerance must be above 0, not -1.0"),
        ({"sampling.tolerance": float("nan")}, "sampling.tolerance must be finite, not nan"),
        ({"likelihood.rtol": 0.0}, "likelihood.rtol must be above 0, not 0.0"),
        ({"optim.learning_rate": float("inf")}, "optim.learning_rate must be finite, not inf"),
        ({"train.ema_rates": (0.9, float("nan"))}, "train.ema_rates must be finite, not nan"),
        ({"train.log_every": 0}, "train.log_every must be at least 1, not 0"),
        ({"net.init_scale": float("nan")}, "net.init_scale must be finite, not nan"),
        (
            {"data.name": "absent", "data.image_size": 8, "data.num_values": 10**12},
            "pixels: pixels have 2 to 256 values, and image has 10000",
        ),
    ],
)
def test_numbers_of_a_config(changes, message):
    config = base.get_config()
    config.update_from_flattened_dict({"data.name": "absent", "data.image_size": 32} | changes)
    with pytest.raises(ConfigError, match=message):
        experiment.build_experiment(config)


def test_the_ends_of_the_seeds():
    """Each has keys of its own, and the next ones would repeat them."""
    config = base.get_config()
    keys = []
    for config.seed in (0, 1, 2**31, 2**32 - 1):
        experiment.check_numbers(config)
        keys.append(tuple(jax.random.key_data(experiment.key_for(config, "train")).tolist()))
    assert len(set(keys)) == 4
    assert np.array_equal(*(jax.random.key_data(jax.random.key(s)) for s in (0, 2**32)))


def test_correctors_alone_cannot_be_named():
    assert callable(solvers.langevin(gaussian.VP()).step)
    with pytest.raises(ConfigError, match="unknown name 'langevin'"):
        build("solvers", "langevin", gaussian.VP())


def test_a_part_that_a_config_sets_by_a_dict_can_be_replaced_by_a_call():
    """As the command line does; it refuses another class than that of the field."""
    config = base.get_config()
    config.data = {"name": "signals", "num": 10}
    config.lock()
    config.data = "csv_table(path='rows.csv')"
    assert config.data.to_dict() == {"name": "csv_table", "path": "rows.csv"}
