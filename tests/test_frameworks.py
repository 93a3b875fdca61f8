"""benchmarks/frameworks.py, with sides of known times."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def frameworks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import frameworks

    return frameworks


class Told:
    """A side whose calls take the seconds that are given, in turn, and make `made` steps."""

    def __init__(self, made, **seconds):
        self.made, self.seconds = made, {k.replace("_", " "): iter(v) for k, v in seconds.items()}

    def ask(self, name):
        seconds = next(self.seconds[name])
        told = {"made": self.made, "seconds": seconds, "processor": 2 * seconds}
        return told | {"peak": 2**30, "device_peak": None}

    def end(self):
        pass


def test_ratios_are_medians_over_rounds_of_the_second_calls(frameworks, monkeypatch):
    def calls(*timed):  # what is not timed comes before each: a call whose length does not count
        return [x for seconds in timed for x in (100.0, seconds)]

    # ratios 3, 2 and 4; the ratio of the medians would be 2
    ours = Told(10, training_step=calls(10.0, 30.0, 20.0), sampler=calls(2.0, 2.0, 2.0))
    other = Told(1, training_step=calls(3.0, 6.0, 8.0), sampler=calls(1.0, 1.0, 1.0))
    about = {"parameters": 1, "operations": 1, "start": 4.0, "start, again": 2.0}
    about |= {"preparation": 1.0, "memory, sampler": 2**30, "versions": {}}
    first = {run: {"seconds": 50.0} for run in frameworks.RUNS}

    def begin(name, *_):
        return (ours if name == "score_sde" else other), about | {"first": first}

    monkeypatch.setattr(frameworks, "begin", begin)
    options = SimpleNamespace(sides=["score_sde", "dew"], python=[], rounds=3)
    found = frameworks.measure({"network": "dit", "clock": "seconds"}, options)
    assert found["dew"]["training step, ratios"] == [3.0, 2.0, 4.0]
    assert found["dew"]["training step, ratio"] == 3.0
    assert found["dew"]["sampler, ratio"] == 5.0  # ours makes ten batches in a call of 2 s
    assert found["score_sde"]["training step"] == 2.0
    assert found["score_sde"]["compilation, training step"] == 30.0  # 50 less 20
    assert found["dew"]["compilation, training step"] == 44.0
    rows = frameworks.table(found).splitlines()
    assert "| training step | 2.00 s | 6.00 s (3.00) |" in rows
    assert "| memory, training | 1.00 GiB | 1.00 GiB (1.00) |" in rows


def test_a_side_that_is_not_installed_is_left_out(frameworks, monkeypatch, capsys):
    recipe = frameworks.Recipe("hackable_side")
    monkeypatch.setattr(frameworks, "SIDES", {"hackable_diffusion": recipe})
    options = SimpleNamespace(sides=["hackable_diffusion"], python=[], rounds=1)
    assert frameworks.measure({"network": "dit", "clock": "seconds"}, options) == {}
    assert "hackable_diffusion is left out: hackable_diffusion is not installed" in (
        capsys.readouterr().out
    )


def test_replies_are_lines_of_json_whatever_the_library_prints():
    program = """
from sides.serve import Side, serve

def make(settings):
    print("a library says hello")
    def run():
        print("and more")
        return settings.batch
    return Side({"sampler": run}, lambda: {"parameters": 3}, lambda: None)

serve(make, "json")
"""
    told = subprocess.run(
        [sys.executable, "-c", program, '{"batch": 7}'],
        cwd=BENCHMARKS,
        input="sampler\nfacts\n",
        capture_output=True,
        text=True,
        check=True,
    )
    ready, ran, facts = map(json.loads, told.stdout.splitlines())
    assert ready == {"ready": True}
    assert ran["made"] == 7
    assert 0 <= ran["seconds"] < 1 <= ran["peak"]
    assert facts == {"parameters": 3}
    assert "and more" in told.stderr


@pytest.fixture
def operations(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from sides.jax_parts import operations

    return operations


def test_operations_of_products_within_scans_and_jitted_functions(operations):
    w = jnp.ones((5, 7, 7))

    @jax.jit
    def f(x):
        return jax.lax.scan(lambda x, w: (jax.checkpoint(jnp.tanh)(x @ w), None), x, w)[0]

    assert operations(f, jnp.ones((3, 7))) == 5 * 2 * 3 * 7 * 7


@pytest.mark.parametrize("groups", [1, 2])
def test_operations_of_a_convolution(operations, groups):
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4 // groups, 6))

    def f(x):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    assert operations(f, x) == 2 * (2 * 4 * 4 * 6) * (9 * 4 // groups)
