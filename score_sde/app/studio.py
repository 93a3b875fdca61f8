"""One model, loaded once, and what a page does with it: samples, their reference, edits.

Every figure has a folder of its own, DIR/app/NUMBER, with what mode `sample` or `edit` writes and
the command that writes it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from score_sde.app import asking
from score_sde.app.asking import Fields
from score_sde.app.watching import Seen, StoppedError, Watch
from score_sde.config import build
from score_sde.data import gather
from score_sde.errors import ConfigError
from score_sde.evaluation import solver_error
from score_sde.experiment import coding, edits, filters, requests, sample_files
from score_sde.experiment.compiled_programs import Programs
from score_sde.experiment.workdirs import restore
from score_sde.runtime.atomic import write_text

EXAMPLES = 24  # of the test set, to choose from
KEPT = 100  # folders of figures; older ones are removed


class Figure(NamedTuple):
    """folder: what was written. picture: a PNG. files: what there is to download. command: makes
    it again. about: one line. x: the samples in the network's space. parts: the pictures of each
    result, if there are several."""

    folder: Path
    picture: Path
    files: list[Path]
    command: str
    about: str
    x: np.ndarray
    parts: tuple[Path, ...] = ()


class Studio:
    """A trained model and the programs that were compiled of it.

    again: the command of the model: the program, its config and its workdir.

    Raises:
      CheckpointError, ConfigError, DataError.
    """

    def __init__(self, config: ConfigDict, workdir: Path, again: Sequence[str]):
        self.config, self.workdir, self.again = config, workdir, list(again)
        self.trained = restore(config, workdir)
        self.experiment = self.trained.experiment
        self.experiment.check_samples()
        self.medium = self.experiment.medium
        with _on_processor() as device:  # for previews
            self._codec = jax.device_put(self.experiment.codec, device)
        self.programs = Programs()
        self.root = workdir / "app"
        self._filters = filters.build_filters(config, self.experiment)
        # of several devices a program is one at a time, or two could wait for one another
        several = jax.device_count() > 1
        self._turn: Any = threading.Lock() if several else contextlib.nullcontext()
        self._lock = threading.Lock()

    def sample(self, asked: Fields, watch: Watch) -> Figure:
        """What `--mode sample` with these fields writes.

        Raises:
          ConfigError, DataError, ConvergenceError. StoppedError: by the watch.
        """
        config = asking.config_of(self.config, asked)
        command = asking.command(self.again, "sample", self.config, asked)
        found: list[np.ndarray] = []

        def sampler_of(config: ConfigDict, experiment: Any, size: int) -> Callable[..., Any]:
            sampler = self.programs.sampler(config, experiment, size)

            def draw(params, key, first):
                watch.check()
                with self._turn, _stopping(watch):
                    out = sampler(params, key, first, change=watch.change)
                    jax.block_until_ready(out)
                new = np.unique(np.asarray(first) + np.arange(size))  # the last are filled up
                found.append(np.asarray(out.x)[: len(new)])
                return out

            return draw

        with watch, self._folder() as folder:
            about = sample_files.arrays(config, folder, self.trained, self._filters, sampler_of)
            write_text(folder / "command.txt", command + "\n")
        each = sorted((folder / "samples").glob(f"*{self.medium.suffix}"))
        picture = folder / "samples.png"
        files = [picture, folder / "samples.npz", *each, folder / "command.txt"]
        calls = f"{about['nfe']:.4g} network evaluations a sample"
        told = f"{about['num_samples']} samples, {calls}"
        return Figure(folder, picture, files, command, told, np.concatenate(found))

    def check_reference(self, asked: Fields) -> None:
        """Raises a ConfigError of a solver that has no reference."""
        config = asking.config_of(self.config, asked)
        sde = requests.sampling_sde(config)
        solver = build("solvers", config.sampling.solver, sde)
        if solver.asks == "probabilities" or not self.experiment.objective.answers("denoiser"):
            raise ConfigError("a reference is a solution of the ODE, and this model has none")
        if solver_error.is_stochastic(solver, requests.build_grid(config)(sde)):
            raise ConfigError(
                f"sampling.solver={config.sampling.solver} draws noise, so it has no reference: "
                "take a deterministic one, such as ddim, dpmpp or heun"
            )

    def refer(self, asked: Fields, drawn: Figure, watch: Watch) -> Figure:
        """Samples from the same noise by a fine solution of the probability-flow ODE, and the root
        mean squared difference of the samples drawn, in the units of x.

        Raises:
          ConfigError: the solver has no reference. ConvergenceError. StoppedError.
        """
        figure = self.sample(asking.referred(asked), watch)
        error = solver_error.rms_error(drawn.x, figure.x)
        spread = "" if len(drawn.x) < 2 else f" ± {error.standard_error:.1g}"
        about = (
            f"RMS difference {error.value:.3g}{spread}, of samples with an RMS of "
            f"{np.sqrt(np.mean(np.square(figure.x))):.3g}; the ODE: {figure.about}"
        )
        return figure._replace(about=about)

    def edit(self, asked: Fields, watch: Watch) -> Figure:
        """What `--mode edit` with these fields writes, of the first image.

        Raises:
          ConfigError, DataError, ConvergenceError. StoppedError: by the watch.
        """
        config = asking.config_of(self.config, asked)
        command = asking.command(self.again, "edit", self.config, asked)

        def program_of(config: ConfigDict, experiment: Any, plan: Any) -> Callable[..., Any]:
            program = self.programs.edit(config, experiment, plan)

            def run(params, key, batch):
                watch.check()
                with self._turn, _stopping(watch):
                    return jax.block_until_ready(program(params, key, batch, change=watch.change))

            return run

        with watch, self._folder() as folder:
            done = edits.edited(config, self.experiment, self.trained.params, program_of)
            edits.write(folder, self.medium, done)
            write_text(folder / "command.txt", command + "\n")
            (folder / "parts").mkdir()
            parts = tuple(folder / "parts" / f"{i}.png" for i in range(len(done.labels)))
            for path, result in zip(parts, done.results[0], strict=True):
                self.medium.sheet(path, result[None])
        picture = folder / "edit.png"
        files = [picture, folder / "edit.npz", folder / "command.txt"]
        told = [f"{len(done.labels)} results of an image", f"{done.nfe:.4g} evaluations a result"]
        told += [f"{name} {np.max(error):.2g}" for name, error in done.errors.items()]
        return Figure(folder, picture, files, command, ", ".join(told), done.x, parts)

    def preview(self, seen: Seen, most: int, path: Path) -> Path:
        """A picture of the estimates of the newest call, of at most so many samples, made by the
        processor, so that it need not wait for the sampler."""
        with _on_processor():
            shown = coding.shown(self._codec, seen.estimate[:most])
        self.medium.sheet(path, shown)
        return path

    def times(self, asked: Fields) -> np.ndarray:
        """The grid of sampling. Raises a ConfigError where the fields are wrong."""
        config = asking.config_of(self.config, asked)
        return np.asarray(requests.build_grid(config)(requests.sampling_sde(config)), np.float32)

    def examples(self, most: int) -> np.ndarray:
        """The first test examples, as they are shown; none where the data set is not there."""
        codec, data = self.experiment.codec, self.experiment.data
        count = min(most, len(requests.examples_of(data)))
        if not count:
            return np.zeros((0, 1))
        return coding.shown_raw(codec, gather(data.test, np.arange(count))[codec.part])

    def input(self, content: bytes, suffix: str) -> Path:
        """A file of these bytes for a command to read, named by them: DIR/app/inputs."""
        path = self.root / "inputs" / f"{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        for old in sorted(path.parent.iterdir(), key=lambda p: -p.stat().st_mtime)[2 * KEPT :]:
            old.unlink(missing_ok=True)
        return path

    @contextlib.contextmanager
    def _folder(self):
        """A new folder for a figure; nothing is left of one that fails."""
        with self._lock:
            self.root.mkdir(exist_ok=True)
            numbers = sorted(int(p.name) for p in self.root.iterdir() if p.name.isdigit())
            for old in numbers[: max(len(numbers) + 1 - KEPT, 0)]:
                shutil.rmtree(self.root / f"{old:05d}", ignore_errors=True)
            for number in itertools.count(numbers[-1] + 1 if numbers else 1):
                folder = self.root / f"{number:05d}"
                with contextlib.suppress(FileExistsError):  # of another page on this workdir
                    folder.mkdir()
                    break
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def steps_done(times: np.ndarray, t: float) -> int:
    """How many steps of a grid are done at the time t."""
    return int(np.sum(times[:-1] > t + 1e-6 * abs(times[0] - times[-1])))


@contextlib.contextmanager
def _stopping(watch: Watch):
    """Around a program that a watch may stop, whose error XLA reports in its own words."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if watch.stopped:
            raise StoppedError("stopped") from error
        raise


@contextlib.contextmanager
def _on_processor():
    """A device of the processor, or the default one where JAX_PLATFORMS leaves that out."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        device = jax.local_devices()[0]
    with jax.default_device(device):
        yield device
