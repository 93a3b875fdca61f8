"""The Python of README and docs/ runs, and so does the first command of each mode."""

import importlib
import re
import sys

import jax
import pytest
from flax.traverse_util import flatten_dict

from configs import digits
from score_sde import command_line
from score_sde.modes.train import train
from tests import command
from tests.documents import BLOCK, PAGES
from tests.long.test_commands import filled, of_python  # noqa: F401
from tests.soak import ROOT

SHORT = {
    "net.nf": 8,
    "net.ch_mult": (1,),
    "net.attn_resolutions": (),
    "train.steps": 2,
    "train.batch_size": 8,
    "train.sample_every": 0,
    "sampling.num_samples": 4,
    "sampling.batch_size": 16,
    "evaluate.num_samples": 16,
    "likelihood.rtol": 0.1,
    "likelihood.atol": 0.1,
    "pairs.number": 16,
    "net.channels": 8,
    "net.width": 16,
    "net.depth": 2,
    "edit.num_images": 2,
    "edit.completions": 1,
    "watermark.rtol": 0.1,
    "watermark.atol": 0.1,
    "solvers.solvers": ("ddim",),
    "solvers.grids": ("log_snr",),
    "solvers.nfe": (5,),
    "solvers.num_samples": 4,
    "solvers.batches": 1,
}


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A folder with runs/digits in it, as `make demo` leaves, after one step."""
    folder = tmp_path_factory.mktemp("demo")
    config = digits.get_config()
    config.train.update(steps=1, sample_every=0)
    train(config, folder / "runs/digits")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in PAGES
        # the blocks of the tutorial need its commands: test_tutorial.py
        if "```python" in (ROOT / name).read_text() and name != "docs/start/paper_figure.md"
    ],
)
def test_python_of_the_documents_runs(name, digits_run, tmp_path, monkeypatch):
    """The blocks of a page, in their order. One whose first line is `# PATH` is that file: it is
    written beside the others of its package, and imported from there."""
    monkeypatch.chdir(digits_run)
    names = {}
    for block in BLOCK.findall((ROOT / name).read_text()):
        if not (path := re.match(r"# ([\w/]+\.py)\n", block)):
            exec(compile(block, name, "exec"), names)
            continue
        file = tmp_path / path[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block)
        module = path[1].removesuffix(".py").replace("/", ".")
        package = importlib.import_module(module.rpartition(".")[0])
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
        try:
            getattr(importlib.import_module(module), "get_config", dict)()
        finally:
            monkeypatch.delitem(sys.modules, module)
    jax.clear_caches()  # of a page's programs


# workdirs that the first command of another mode reads
NEEDED = re.compile(r"--workdir (runs/(?:digits_autoencoder|digits_dit))\b")


def short(config):
    """The fields of SHORT that this config has."""
    fields = flatten_dict(command_line.ConfigFile().parse(config).to_dict(), sep=".")
    return [f"--config.{field}={value}" for field, value in SHORT.items() if field in fields]


def test_first_command_of_each_mode_runs(filled):  # noqa: F811
    """Those of README.md and docs/ on the digits and the ring, in their order: each finds what the
    ones before it made. The network and the numbers are small; what the text sets is as it says."""
    ran = set()
    for call in of_python("main.py --mode"):
        mode, *arguments = filled(call.arguments)
        first = (mode, *NEEDED.findall(str(call)))
        if (
            call.file not in PAGES
            or first in ran
            or not re.search("runs/(digits|solvers)", str(call))
        ):
            continue
        ran.add(first)
        after = arguments.index("--config") + 2  # so what is shown comes later, and wins
        arguments[after:after] = short(arguments[after - 1])
        ended = command.main("--mode", mode, *arguments, devices=1)
        assert ended.returncode == 0, f"{call}\n{ended.stderr}"
    modes = ",".join(mode for mode, *_ in ran).split(",")
    # `app` goes on until it is stopped: test_app
    assert {*modes} == {*command_line.MODES} - {"import", "reference", "app"}
