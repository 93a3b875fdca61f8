"""Every command that the documents and docstrings show works as it is written.

Bash itself reads the commands: stand-ins for `python`, `make`, `pip` and the launchers of clusters
write down their arguments. So quotes, variables, loops and continued lines are the shell's, and a
new command is tested without a change here. Its arguments are then parsed for real; the commands of
README.md and docs/ on the digits are run in tests/long, shortened.
"""

import argparse
import ast
import configparser
import contextlib
import functools
import itertools
import json
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

from score_sde import command_line
from score_sde.config import build, parse
from score_sde.data import absent, digits
from score_sde.errors import CheckpointError
from score_sde.experiment import build as experiments
from score_sde.experiment import edits, frozen, optimization, requests, samplers
from score_sde.media.wav import write_generated
from tests import command, latents, torch_zip
from tests.data.test_tfds_text import FakeTexts
from tests.documents import PAGES
from tests.published.test_adm import weights
from tests.published_cases import FOLDERS, GOLDEN
from tests.soak import FORKS, ROOT

BENCHMARKS = sorted(
    f"benchmarks/{path.name}"
    for path in (ROOT / "benchmarks").glob("*.py")
    if path.name != "command.py"  # what they share
)
# The first word of a command, perhaps after variables, or the flags of main.py alone
FIRST = r"(?:(?:[A-Z_]+=\S+ )*(?:python|make|pip|srun|mpirun|gcloud|tensorboard) |--config[\w.]+=)"


class Call(NamedTuple):
    """A program with its arguments, and the file that shows it."""

    file: str
    program: str
    arguments: tuple[str, ...]

    def __str__(self):
        return f"{self.file}: {' '.join([self.program, *self.arguments])}"


def docstrings(path):
    """All of a file's, as one text."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = ast.walk(ast.parse(path.read_text()))
    return "\n\n".join(ast.get_docstring(n) or "" for n in nodes if isinstance(n, kinds))


def cells(path):
    """The texts of a notebook and those that it writes."""
    for cell in json.loads(path.read_text())["cells"]:
        shown = [cell["source"]] if cell["cell_type"] == "markdown" else []
        shown += [out.get("data", {}).get("text/markdown", []) for out in cell.get("outputs", ())]
        yield from ("".join(text) for text in shown)


def texts():
    """By file what it says."""
    for name in PAGES:
        yield name, (ROOT / name).read_text()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        yield str(path.relative_to(ROOT)), "\n\n".join(cells(path))
    files = [ROOT / "main.py", ROOT / "tests/soak.py", *(ROOT / "tests/golden").glob("*.py")]
    files += [
        p
        for folder in ("configs", "score_sde", "benchmarks")
        for p in (ROOT / folder).rglob("*.py")
    ]
    for path in sorted(files):
        yield str(path.relative_to(ROOT)), docstrings(path)


def shell_code(text):
    """The blocks without a language or in the shell's, lines that begin with a command, and such
    spans of code, in the order of the text."""
    block = r"^```(?P<language>[^\n]*)\n(?P<block>.*?)^```$"
    line = rf"^ *(?P<line>{FIRST}(?:[^\n]*\\\n)*[^\n]*)$"
    first = FIRST.replace(" ", r"\s+")  # a span may be broken over lines
    span = rf"(?<!`)`(?P<span>{first}[^`]*)`(?!`)"
    code = []
    for match in re.finditer(f"{block}|{line}|{span}", text, re.MULTILINE | re.DOTALL):
        if match["language"] not in (None, "", "sh", "bash"):
            continue
        found = match["block"] or match["line"] or " ".join(match["span"].split())
        found = re.sub(r"\[(--[^]]+)\]", r"\1", found)  # an option that may be left out
        code += [re.sub(r"^--", "flags --", line) for line in found.splitlines()]
    return "\n".join(code)


STAND_IN = r"""#!/bin/bash
case "${0##*/}" in
    srun | mpirun) while [ "$1" != python ]; do shift; done; exec "$@" ;;
    gcloud) eval "${!#}" ;;
    *) printf '%s\0' "${0##*/}" "$@" $'\n' >> "$CALLS" ;;
esac
"""


@functools.cache
def calls():
    """All of them; a program without a stand-in is an error."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in ("bin", ".venv/bin", "score_sde"):
            (folder / name).mkdir(parents=True)
        (folder / ".venv/bin/activate").touch()
        stand_in = folder / "bin/python"
        stand_in.write_text(STAND_IN)
        stand_in.chmod(0o755)
        for name in ("make", "pip", "srun", "mpirun", "gcloud", "tensorboard", "flags", "mv"):
            (folder / "bin" / name).symlink_to(stand_in)
        for name, text in texts():
            code = shell_code(text)
            if not code:
                continue
            out = folder / "calls"
            out.write_text("")
            done = subprocess.run(
                ["/bin/bash", "-eu", "-o", "pipefail", "-c", code],
                cwd=folder,
                env={"PATH": str(folder / "bin"), "CALLS": str(out)},
                capture_output=True,
                text=True,
            )
            assert not done.returncode, f"{name}: {done.stderr}"
            for one in out.read_text().split("\0\n\0")[:-1]:
                program, *arguments = one.split("\0")
                found.append(Call(name, program, tuple(arguments)))
    return list(dict.fromkeys(found))


def of_python(script):
    """The calls of a script, or of `-m MODULE`, with what follows it."""
    found, words = [], script.split()
    for call in calls():
        if call.program == "python" and call.arguments[: len(words)] == (*words,):
            found.append(Call(call.file, f"python {script}", call.arguments[len(words) :]))
    return found


def test_the_texts_are_read():
    """What is found is what a reader finds: continued lines, quotes, variables, launchers."""
    shown = {str(call) for call in calls()}
    for line in (
        "README.md: make demo",
        "docs/guides/solvers.md: flags --config.sampling.window=16 "
        "--config.sampling.tolerance=0.01",
        "README.md: python main.py --mode sample --config configs/digits.py --workdir runs/digits "
        "--config.sampling.solver=dpmpp --config.sampling.grid=log_snr --config.sampling.steps=20",
        "docs/guides/devices.md: python main.py --distributed --mode train --config CONFIG "
        "--workdir DIR",
        "docs/results/reproduce.md: python main.py --mode likelihood "
        "--workdir runs/subvp_ddpmpp_deep "
        "--config configs/subvp/cifar10_ddpmpp_deep_continuous.py --config.seed=4",
        "configs/digits.py: python main.py --mode train,sample,likelihood,evaluate "
        "--config configs/digits.py --workdir runs/digits",
        "notebooks/control.ipynb: python benchmarks/inverse.py",
    ):
        assert any(sorted(line.split()) == sorted(one.split()) for one in shown), line
    modules = "-m score_sde.data.prepare", "-m score_sde.media.sign"
    for script in (*BENCHMARKS, "tests/soak.py", "docs/figures.py", *modules):
        assert of_python(script), script
    scripts = {call.arguments[0] for call in calls() if call.program == "python"}
    scripts -= {"main.py", "tests/soak.py", "docs/figures.py", "-m", *BENCHMARKS}
    scripts -= {"docs/app_picture.py"}  # of a page that is served
    assert all(script.startswith("tests/golden/make_") for script in scripts)  # for other packages
    assert all((ROOT / script).exists() for script in scripts)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Puts files in the place of the names that stand for a reader's own."""
    folder = tmp_path_factory.mktemp("reader")
    for name, count in (("PICTURES", 2), ("OTHERS", 6)):
        (folder / name).mkdir()
        for i in range(count):
            image = np.full((8, 8), 40 * i, np.uint8)
            Image.fromarray(image).save(folder / f"{name}/{i}.png")
    for i in range(2):
        (folder / f"PICTURES/{i}.txt").write_text("a grey square")
    labels = ({"file_name": f"{i}.png", "label": i} for i in range(2))
    (folder / "PICTURES/metadata.jsonl").write_text("\n".join(map(json.dumps, labels)))
    for i in range(2):  # classes
        (folder / f"SOUNDS/{i}").mkdir(parents=True)
        write_generated(folder / f"SOUNDS/{i}/0.wav", np.full((16_384, 1), 0.1), 16_000)
    keep = np.zeros((8, 8), np.uint8)
    keep[:4] = 255
    Image.fromarray(keep).save(folder / "mask.png")
    for kind, case in (("diffusion", "plain"), ("classifier", "classifier_new")):
        torch_zip.save(folder / f"{kind}.pt", weights(case))
    latent = np.zeros((2, 32, 32, 4), np.float32)
    np.savez(folder / "latents.npz", latent=latent, label=[0, 999])
    for i in range(1000):  # classes
        (folder / f"classes/{i:03}").mkdir(parents=True)
        (folder / f"classes/{i:03}/0.png").hardlink_to(folder / "PICTURES/0.png")
    for kind in "abc":
        (folder / f"MESHES/{kind}").mkdir(parents=True)
        points = np.random.default_rng(0).normal(size=(256, 3))
        np.savez(folder / f"MESHES/{kind}/0.npz", points=points)
    words = "the quick brown fox jumps over the lazy dog " * 200
    for name, text in (("book", words), ("text8", words), ("names", words.replace(" ", "\n"))):
        (folder / f"{name}.txt").write_text(text)
    FakeTexts(data_dir=folder / "tfds").download_and_prepare(file_format="array_record")
    (folder / "rows.csv").write_text("age,code\n" + "".join(f"{i},{i % 2}\n" for i in range(8)))
    for case in ("sd15", "sd15_instruct"):
        pipeline = GOLDEN / "pipelines" / case
        shutil.copytree(pipeline, folder / "instruct-pix2pix", dirs_exist_ok=True)
    names = {
        r"\binstruct-pix2pix\b": f"{folder}/instruct-pix2pix",
        r"\b\d+x\d+_(diffusion|classifier)\.pt\b": rf"{folder}/\1.pt",
        r"\b(runs/|PICTURES\b|OTHERS\b|MESHES\b|SOUNDS\b|mask\.png\b|rows\.csv\b)": rf"{folder}/\1",
        r"\b(book|text8|names)\.txt\b": rf"{folder}/\1.txt",
        r"dataset='imdb_reviews'": f"dataset='fake_texts', data_dir='{folder}/tfds'",
        r"\bIMAGES\b": f"{folder}/PICTURES",
        r"\bDIR\b": f"{folder}/runs/DIR",
        r"\b(FOLDER|ddpm-cifar10-32)\b": str(FOLDERS / "velocity"),
        r"\bstable-diffusion-v1-5\b": str(GOLDEN / "pipelines/sd15"),
        r"\bSOURCE\b": str(GOLDEN / "dit/diffusers"),
        r"\bLATENTS\.npz\b": f"{folder}/latents.npz",
        r"\bIMAGENET\b": f"{folder}/classes",
        r"\bedm2\.py:PICKLE\b": f"edm2.py:{GOLDEN}/edm/edm2.pkl",
        r"\bPICKLE\b": f"{GOLDEN}/edm/ddpmpp.pkl",
        r"\bFILE\b": str(ROOT / "benchmarks/learned/ring_5.json"),
        r"\b(CONFIG|configs/NAME)\b": "configs/digits.py",
        r"NAME\(option=value\)": "ddim(eta=0.5)",
    }

    def fill(arguments):
        def one(text):
            return functools.reduce(lambda text, name: re.sub(name, names[name], text), names, text)

        return tuple(one(text) for text in arguments)

    return fill


def whole(call):
    """The arguments of main.py as they may be meant: what the text leaves out is in a sentence
    beside it, and most often of the digits."""
    given = tuple(word for word in call.arguments if word not in ("...", "ARGUMENTS"))
    if call.program != "flags" and given == call.arguments:
        return [given]
    configs = "configs/digits.py", "configs/digits_edm.py", "configs/diffusers.py:FOLDER"
    configs = *configs, "configs/dit.py:SOURCE", "configs/words.py", "configs/tables.py"
    return [("--mode=train", "--config", config, "--workdir=DIR", *given) for config in configs]


def built(config):
    """Makes all that a config names, without a step of training or an array of a network."""
    data = None
    if config.data.name in ("tfds", "absent"):  # which needs files that are not here
        shape = {"image_size": config.data.image_size or 32, "channels": config.data.channels or 3}
        values = {"num_values": 0} if config.codec.name == "reals" else {}
        data = absent(**shape, **values, num_classes=config.net.get("num_classes", 0) or 1)
    if config.data.name == "encoded":
        data = digits()
    if config.sampling.adapters:  # which are not here, and would read them
        config.sampling.images = None
    if "'runs/" in str(config.conditioner):
        # the latents of `latents.frozen_in`: four for each channel of an image
        latents.seen_beside(config, 4 if config.data.name == "encoded" else 12)
    load = latents.load_of(config) if config.objective.get("reward") else frozen_in
    experiment = experiments.build_experiment(config, data, load=load)
    optimization.unfit_steps(config)
    for sampler in config.evaluate.samplers:
        name, _, grid = sampler.partition(" on ")
        build("solvers", name, requests.sampling_sde(config))
        build("sampling.grids", grid or config.sampling.grid, requests.sampling_sde(config), 10)
    parse(config.evaluate.features)
    if config.objective.name == "denoising":
        with contextlib.suppress(CheckpointError):  # no guide has been trained here
            samplers.build_sampler(config, experiment, 8)
        solver = build("solvers", config.sampling.solver, requests.sampling_sde(config))
        if experiment.codec.medium == "images" and solver.asks == "denoiser":  # as edits are
            edits.build_plan(config, experiment)


def frozen_in(folder):
    """The network of published files; one of a workdir has not been trained here."""
    if Path(folder).is_dir():
        return frozen.load(folder, lambda path: pytest.fail(f"{path} is a workdir"))
    return latents.frozen_in(folder)


def mistake(arguments, monkeypatch):
    """What is wrong with arguments of main.py, or None."""
    if arguments == ("--help",):  # which ends the process
        return command.main(*arguments).stderr or None
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])  # overrides are read from there
    try:
        with flagsaver.flagsaver():
            command_line.parse_flags(sys.argv)
            config = command_line.FLAGS.config
        built(config)
    except Exception as error:
        if "no NotoColorEmoji.ttf: install it" in str(error):  # what is wrong is this machine
            return None
        return f"{type(error).__name__}: {error}"


def test_commands_of_main(filled, monkeypatch):
    monkeypatch.chdir(ROOT)
    wrong, cached = [], functools.cache(lambda arguments: mistake(arguments, monkeypatch))
    shown = [*of_python("main.py"), *of_python("-m score_sde")]
    for call in [*shown, *(call for call in calls() if call.program == "flags")]:
        meant = whole(call)
        mistakes = [*itertools.takewhile(bool, (cached(filled(words)) for words in meant))]
        if len(mistakes) == len(meant):
            wrong.append(f"{call}\n    {mistakes[0]}")
    assert not wrong, "\n".join(wrong)


def accepts(folder, commands):
    """Parses commands as `python SCRIPT` in a clean clone: `configs` is not on the path. What is
    wrong goes to a file."""
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != ROOT]
    path, parse_args, wrong = [*sys.path], argparse.ArgumentParser.parse_args, []

    def only_parse(parser, *arguments):
        parse_args(parser, *arguments)
        raise SystemExit(0)

    argparse.ArgumentParser.parse_args = only_parse
    sys.stdout, sys.stderr = (folder / "out").open("w"), (folder / "err").open("w")
    for script, *arguments in commands:
        for name in [name for name in sys.modules if name.split(".")[0] in ("configs", "command")]:
            del sys.modules[name]
        sys.argv = [script, *arguments]
        sys.path[:] = [str((ROOT / script).parent), *path]
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
            error = "it parsed nothing"
        except SystemExit as end:
            needs = str(end).endswith("--help says what to install")  # the peers' packages
            error = None if end.code in (0, None) or needs else f"exit code {end.code}"
        except BaseException as failure:
            error = repr(failure)
        if error:
            wrong.append(f"{' '.join(sys.argv)}: {error}")
    (folder / "wrong").write_text("\n".join(wrong))


def test_commands_of_scripts(tmp_path):
    scripts = [*BENCHMARKS, "tests/soak.py", "docs/figures.py"]
    scripts += ["score_sde/data/prepare.py", "score_sde/media/sign.py"]
    commands = [(script, "--help") for script in scripts]
    commands += [(script, "--small") for script in BENCHMARKS if "peer" not in script]
    for script in scripts:
        names = (script, "-m " + script.removesuffix(".py").replace("/", "."))
        commands += [(script, *call.arguments) for name in names for call in of_python(name)]
    process = FORKS.Process(target=accepts, args=(tmp_path, [*dict.fromkeys(commands)]))
    process.start()
    process.join()
    assert process.exitcode == 0, (tmp_path / "err").read_text()
    assert (tmp_path / "wrong").read_text() == "", (tmp_path / "err").read_text()
    assert (tmp_path / "out").read_text().count("show this help message") == len(scripts)


def test_commands_of_make():
    """Targets and variables are the Makefile's. CI runs demo, test, lint and benchmarks."""
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)[1].split()
    shown = [call for call in calls() if call.program == "make"]
    for call in shown:
        for word in call.arguments:
            variable, is_variable, _ = word.partition("=")
            assert f"$({variable})" in makefile if is_variable else word in targets, call
    lines = re.findall(
        r"^ *(?:step |in_time \d+ )?make ([^#|\n]*)", (ROOT / ".ci/run").read_text(), re.MULTILINE
    )
    in_ci = {word for line in lines for word in line.split()}
    # env: the others make it; demo-text and mutants take longer than all of CI may; audit and sbom
    # ask for more packages, and a list that may be out of reach
    assert set(targets) - in_ci == {
        *("env", "format", "clean", "demo-text", "mutants", "audit", "sbom")
    }


def test_commands_of_pip():
    """Extras, files of constraints and versions are those of setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    pins = re.findall(r"[\w-]+==[\d.]+", (ROOT / "setup.cfg").read_text())
    for call in calls():
        if call.program != "pip":
            continue
        assert call.arguments[0] == "install"
        for word in call.arguments[1:]:
            if extra := re.search(r"\[(\w+)\]$", word):
                assert extra[1] in extras, call
            elif word.startswith("constraints/"):
                assert (ROOT / word).exists(), call
            elif word.split("==")[0] in ("torch", "diffusers", "k-diffusion"):
                assert word in pins, call
