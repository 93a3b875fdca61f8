"""Mode evaluate on a flow map that is known, and the counts of its evaluations."""

import json

import numpy as np
import pytest
from PIL import Image

from score_sde.errors import ConfigError
from score_sde.experiment import build
from score_sde.experiment.report import samples
from score_sde.experiment.report.field import FIELD_LOG_SNR
from score_sde.experiment.samplers import build_sampler
from score_sde.modes import evaluate
from tests.long.test_flow_identities import of_steps
from tests.modes.test_train import small, untrained

STD = 0.4
MEAN_FLOW = {
    "parametrization": f"edm(sigma_data={STD})",
    "c_noise": "log_snr(scale=0.1)",
    "net.numbers": ("jump",),
    "objective": {"name": "mean_flow", "time_law": "uniform", "distance": "squared"},
    "sampling.solver": "flow_map(gamma=0.0)",
    "sampling.denoise": False,
    "evaluate.parts": ("flow_map",),
}


def configured(**options):
    """That of a mean flow; the objective is replaced, not merged."""
    objective = options.pop("objective")
    config = small(**options)
    del config.objective
    config.objective = objective
    return config


def test_a_network_of_zeros_takes_steps_of_ddim(tmp_path):
    """Its D is c_skip x whatever s is, the denoiser of N(0, STD^2): the residuals have a closed
    form."""
    config = configured(**MEAN_FLOW)
    untrained(config, tmp_path)
    evaluate.evaluate(config, tmp_path)
    found = json.loads((tmp_path / "evaluate.json").read_text())["flow_map"]
    for name, truth in of_steps(FIELD_LOG_SNR, variance=STD**2).items():
        levels = found[f"{name}_residual"]
        # float32: differences of D that are divided by tau, as small as 0.018
        np.testing.assert_allclose(levels["value"], truth, rtol=2e-3, err_msg=name)
    page = (tmp_path / "evaluate.md").read_text()
    for name in found:
        assert f"| log-SNR | {name.replace('_', ' ')}" in page
    with Image.open(tmp_path / "evaluate.png") as picture:
        assert np.asarray(picture).std() > 0


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "denoising", "time_law": "uniform", "weighting": "simple"},
        {
            "name": "progressive_distillation",
            "time_law": "uniform",
            "weighting": "truncated_snr",
            "steps": 2,
            "stages": 1,
        },
    ],
)
def test_what_gives_no_flow_and_velocity_is_refused(objective, tmp_path):
    config = configured(**{**MEAN_FLOW, "net.numbers": (), "objective": objective})
    untrained(config, tmp_path)
    with pytest.raises(ConfigError, match=f"objective.name='{objective['name']}' does not give"):
        evaluate.evaluate(config, tmp_path)
    assert not (tmp_path / "evaluate.json").exists()


def test_evaluations_are_jumps_where_nothing_is_denoised_at_the_end():
    """`evaluate.nfe` of a flow map: n evaluations are n jumps; with the denoiser at the end they
    are one fewer."""
    config = configured(**MEAN_FLOW)
    config.evaluate.nfe = (1, 2, 4)
    steps = [variant.sampling.steps for _, variant in samples.variants_of(config)]
    assert steps == [1, 2, 4]
    config.sampling.denoise, config.evaluate.nfe = True, (2, 3, 5)
    steps = [variant.sampling.steps for _, variant in samples.variants_of(config)]
    assert steps == [1, 2, 4]
    config.evaluate.nfe = (1,)
    with pytest.raises(ConfigError, match=r"evaluate\.nfe=1 is too little for flow_map"):
        samples.variants_of(config)


@pytest.mark.parametrize(
    ("objective", "solver", "message"),
    [
        (
            {"name": "denoising", "time_law": "uniform", "weighting": "simple"},
            "flow_map(gamma=0.0)",
            "asks for a flow map, which a network of objective.name='denoising' has not learnt to "
            "give: take another solver, or train a flow map",
        ),
        (
            MEAN_FLOW["objective"],
            "ancestral(variance='learned')",
            "asks for the variance of a step, which a network of objective.name='mean_flow' has "
            "not learnt to give: take the variance 'small' or 'large'",
        ),
        (
            {
                "name": "progressive_distillation",
                "time_law": "uniform",
                "weighting": "truncated_snr",
                "steps": 2,
                "stages": 1,
            },
            "dpmpp",
            "asks for a denoiser, which a network of objective.name='progressive_distillation' has "
            "not learnt to give: take flow_map",
        ),
    ],
)
def test_a_solver_that_asks_for_too_much(objective, solver, message):
    options = {**MEAN_FLOW, "objective": objective, "sampling.solver": solver}
    if objective["name"] != "mean_flow":
        options["net.numbers"] = ()
    config = configured(**options)
    with pytest.raises(ConfigError) as error:
        build_sampler(config, build.build_experiment(config), 8)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
