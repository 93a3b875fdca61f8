"""From controls to fields, and to a command that the command line reads as the same fields."""

import shlex
import sys

import pytest
from absl.testing import flagsaver

from score_sde import command_line
from score_sde.app import asking
from score_sde.errors import ConfigError
from tests import perceptron

AGAIN = ["python", "main.py", "--config=tests/perceptron.py", "--workdir=runs/x"]


def drawing(**changes):
    asked = {
        "wanted": "",
        "unwanted": "",
        "guidance": "unguided",
        "solver": "ddim",
        "grid": "uniform",
        "steps": 20,
        "samples": 8,
        "seed": 0,
        "files": False,
    }
    return asking.drawing(changes.pop("field", "labels"), **asked | changes)


def parsed(command, monkeypatch):
    """What the command line makes of a command."""
    monkeypatch.setattr(sys, "argv", shlex.split(command)[1:])  # overrides are read from there
    with flagsaver.flagsaver():
        command_line.parse_flags(sys.argv)
        return command_line.FLAGS.mode, command_line.FLAGS.config


@pytest.mark.parametrize(
    ("config", "again", "asked"),
    [
        ({}, [], drawing(wanted="1, 2 -1", seed=7, guidance="classifier_free(weight=1.5)")),
        ({}, [], drawing(field="prompts", wanted="a 'red' \"cat\"\n\nun été; $HOME `x`\n")),
        ({"sampling.steps": 7}, ["--config.sampling.steps=7"], drawing(steps=20)),
        ({"seed": 3}, ["--config.seed=3"], drawing(files=True, unwanted="3")),
        ({}, [], drawing(solver="sa_solver(predictor=3, corrector=0)", grid="karras(rho=5.0)")),
    ],
)
def test_the_command_sets_the_same_fields(config, again, asked, monkeypatch):
    base = asking.config_of(perceptron.get_config(), config)
    wanted = asking.config_of(base, asked)
    command = asking.command([*AGAIN[:3], *again, AGAIN[3]], "sample", base, asked)
    mode, found = parsed(command, monkeypatch)
    assert mode == ["sample"]
    assert found.to_dict() == wanted.to_dict()


def test_fields_that_are_so_already_are_left_out():
    config = asking.config_of(perceptron.get_config(), drawing())
    assert asking.command(AGAIN, "sample", config, drawing()) == (
        "python main.py --mode sample --config=tests/perceptron.py --workdir=runs/x"
    )
    assert asking.command(AGAIN, "edit", config, drawing(steps=5)).endswith(
        "--config.sampling.steps=5"
    )


def test_what_is_asked_for():
    assert asking.conditions("labels", " 1,2;3  -1 (4) ".replace("(4)", "4")) == (1, 2, 3, -1, 4)
    assert asking.conditions("labels", "(0, 1)") == (0, 1)
    assert asking.conditions("labels", "") == asking.conditions("prompts", " \n") == ()
    assert asking.conditions("prompts", " a cat \n\na dog") == ("a cat", "a dog")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "sampling.steps must be from 1 to 1000000, not 0"),
        ({"steps": 10**9}, "sampling.steps must be from 1 to 1000000, not 1000000000"),
        ({"steps": 2.5}, "sampling.steps must be a whole number, not 2.5"),
        ({"steps": float("nan")}, "sampling.steps must be a whole number, not nan"),
        ({"steps": None}, "sampling.steps must be a number, not None"),
        ({"steps": "__import__('os')"}, "sampling.steps must be a number"),
        ({"samples": 0}, "sampling.num_samples must be at least 1, not 0"),
        ({"samples": 101}, "sampling.num_samples is at most 100 on this page, not 101"),
        ({"steps": 4001}, "sampling.steps is at most 4000 on this page, not 4001"),
        ({"seed": -1}, "seed must be from 0 to 4294967295, not -1"),
        ({"wanted": "1 two"}, "sampling.labels: 'two' is no whole number"),
    ],
)
def test_a_wrong_number_is_the_line_of_the_command_line(changes, message):
    with pytest.raises(ConfigError) as error:
        asking.config_of(perceptron.get_config(), drawing(**changes))
    assert str(error.value).startswith(message)
    assert len(str(error.value).splitlines()) == 1


def test_the_reference_is_the_ode_from_the_same_noise():
    asked = drawing(steps=7, seed=3, guidance="classifier_free(weight=1.5)")
    fine = asking.referred(asked)
    assert fine["sampling.solver"].startswith("probability_flow(")
    same = {name: fine[name] for name in asked if name.split(".")[-1] not in ("solver", "grid")}
    assert same == {**{n: asked[n] for n in same}, "sampling.steps": 1}


@pytest.mark.parametrize(
    ("spec", "kind", "weight", "interval"),
    [
        (None, "unguided", None, None),
        ("classifier_free(weight=2.0)", "classifier_free", 2.0, None),
        ("cfg_pp(strength=0.6)", "cfg_pp", 0.6, None),
        ("apg(weight=3.0, interval=(-2.0, 4.0))", "apg", 3.0, (-2.0, 4.0)),
        ("classifier(workdir='a')", "classifier(workdir='a')", None, None),
    ],
)
def test_guidance_is_read_and_written(spec, kind, weight, interval):
    assert asking.kind_of(spec) == (kind, weight, interval)
    assert asking.guidance(kind, weight, interval) == (spec or "unguided")


def test_guidance_that_is_none():
    with pytest.raises(ConfigError, match="unknown name 'classifier_fre'; did you mean"):
        asking.guidance("classifier_fre", 1.0, None)
    for text in ("-1", "a b", "1 2 3"):
        with pytest.raises(ConfigError, match="is two numbers, such as -2 4, not"):
            asking.interval(text)
    assert asking.interval(" ") is None
    assert asking.interval("(-2, 4)") == asking.interval("-2 4.0") == (-2.0, 4.0)
    assert asking.guidance("unguided", 3.0, (0.0, 1.0)) == "unguided"
