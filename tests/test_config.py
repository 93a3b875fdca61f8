"""The door: names and options become objects, and mistakes become one line."""

import pytest

from score_sde import sde, solvers
from score_sde.config import ConfigError, build, parse


def test_the_two_forms_of_a_spec_are_one():
    assert parse("VP(beta_max=10.0, t_min=1e-3)") == ("VP", {"beta_max": 10.0, "t_min": 1e-3})
    assert parse({"name": "VP", "beta_max": 10.0}) == ("VP", {"beta_max": 10.0})
    assert parse("ncsnpp.NCSNpp") == ("ncsnpp.NCSNpp", {})
    assert build("sde", "VP(beta_max=10.0)") == sde.VP(beta_max=10.0)
    assert build("sde", {"name": "VE", "sigma_max": 10.0}) == sde.VE(sigma_max=10.0)


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
        ("sde", "VPP", "sde: unknown name 'VPP'; did you mean 'VP'.*Cosine, DDPM"),
        ("sde", "SDE", "unknown name 'SDE'"),
        ("sde", "_LogAlpha", "unknown name"),
        ("sde", "VP(beta=1.0)", "VP has no field 'beta'; did you mean 'beta_min'"),
        ("sde", {"beta_max": 1.0}, "lacks the field 'name'"),
        ("sde", "VP(t_min=2.0)", "VP: .*t_min must be below t_max"),
        ("nets", "NCSNpp", "unknown name 'NCSNpp'; did you mean 'ncsnpp.NCSNpp'"),
        ("nets", "nothing.Net", "unknown name 'nothing.Net'.*mlp.MLP"),
        (
            "nets",
            {"name": "ncsnpp.NCSNpp", "nff": 3},
            "NCSNpp has no field 'nff'; did you mean 'nf'",
        ),
        ("data", "cifar", "unknown name 'cifar'.*digits, folder, npz, tfds"),
        ("data", "folder", "folder needs the field.s. path, image_size"),
        ("weighting", "snr", "unknown name 'snr'.*min_snr"),
        ("time_law", "normal", "did you mean 'log_normal'"),
    ],
)
def test_mistakes_name_the_remedy(package, spec, message):
    with pytest.raises(ConfigError, match=message) as error:
        build(package, spec)
    assert "\n" not in str(error.value)


def test_solvers_are_built_for_a_process():
    solver = build("solvers", "predictor_corrector(corrector='annealed_langevin')", sde.VP())
    assert callable(solver.step)
    with pytest.raises(ConfigError, match="ddim has no field 'etta'; did you mean 'eta'"):
        build("solvers", "ddim(etta=1.0)", sde.VP())
    with pytest.raises(ConfigError, match=r"unknown name 'dpmp'.*'dpmpp'"):
        build("solvers", "dpmp", sde.VP())


def test_correctors_alone_cannot_be_named():
    assert callable(solvers.langevin(sde.VP()).step)
    with pytest.raises(ConfigError, match="unknown name 'langevin'"):
        build("solvers", "langevin", sde.VP())
