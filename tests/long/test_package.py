"""The sdist and the wheel: built as a release is, unpacked elsewhere, and run there."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import score_sde
from tests.soak import ROOT


def _run(*command, folder, **environment):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist of this source, and the wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    out = _run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT), folder=folder)
    assert out.returncode == 0, out.stdout[-2000:] + out.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def elsewhere(built, tmp_path_factory):
    """A folder that holds the installed wheel, and nothing else of this project."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (wheel,) = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", "site")
    out = _run(*pip, str(wheel), folder=folder)
    assert out.returncode == 0, out.stderr
    return folder


def _python(folder, *arguments):
    return _run(sys.executable, *arguments, folder=folder, PYTHONPATH=str(folder / "site"))


def _sources(folder):
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }


def test_the_wheel_has_the_package_its_configs_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == _sources("score_sde") | _sources("configs")


def test_the_sdist_has_what_a_build_and_a_reader_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"main.py", "README.md", "CHANGELOG.md", "LICENSE", "setup.cfg", "pyproject.toml"}
    assert needed | _sources("score_sde") | _sources("configs") <= names


def test_the_wheel_trains_and_samples_where_nothing_else_is(elsewhere):
    where = _python(elsewhere, "-c", "import score_sde; print(score_sde.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(elsewhere), where
    flags = ("--config", "configs/digits.py", "--workdir", "run", "--config.train.steps=2")
    small = ("--config.sampling.steps=2", "--config.sampling.num_samples=4")
    out = _python(elsewhere, "-m", "score_sde", "--mode", "train,sample", *flags, *small)
    assert out.returncode == 0, out.stderr
    assert json.loads((elsewhere / "run/config.json").read_text())["train"]["steps"] == 2
    load = "import jax, score_sde; print(score_sde.load('run').sample(jax.random.key(0), 2).shape)"
    assert _python(elsewhere, "-c", load).stdout.strip() == "(2, 8, 8, 1)"


def test_the_wheel_says_its_version_and_a_mistake_in_one_line(elsewhere):
    name = "import importlib.metadata as m; print(m.version('score_sde'))"
    assert _python(elsewhere, "-c", name).stdout.strip() == score_sde.__version__
    out = _python(elsewhere, "-m", "score_sde", "--mode", "train", "--config", "configs/digitz.py")
    assert out.returncode == 1
    assert len(out.stderr.strip().splitlines()) == 1
