"""Train, sample, score: `python main.py --mode train --config configs/digits.py --workdir DIR`."""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

MODES = (
    *("import", "train", "sample", "likelihood", "evaluate", "reference", "solvers"),
    *("edit", "detect"),
)
ONE_PROCESS = ("import", "solvers")

FLAGS = flags.FLAGS
flags.DEFINE_list("mode", None, f"One or more of {', '.join(MODES)}, with commas between.")
flags.DEFINE_string("workdir", None, "Where checkpoints and results are.")
flags.DEFINE_string("source", None, "Mode import: the file or folder of a published checkpoint.")
flags.DEFINE_bool("distributed", False, "This is one of several processes, on one or more hosts.")
flags.DEFINE_boolean("profile", False, "Mode train: a trace of a few steps, in DIR/profile.")
config_flags.DEFINE_config_file("config", None, "A file in configs/.", lock_config=True)


class UsageError(ValueError):
    """Flags that make no sense."""


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; every mistake becomes a UsageError of one line."""
    try:
        rest = FLAGS(argv)
    except SystemExit:
        raise
    except Exception as error:  # config files are code, and may raise anything
        raise UsageError(_one_line(error)) from error
    for name in ("mode", "workdir", "config"):
        if not getattr(FLAGS, name):
            raise UsageError(
                f"--{name} is missing: python main.py --mode train --config configs/digits.py "
                "--workdir runs/digits"
            )
    try:
        FLAGS.config.to_dict()
    except OSError as error:  # the file was not found or did not run
        raise UsageError(_one_line(error.__cause__ or error)) from error
    if wrong := [mode for mode in FLAGS.mode if mode not in MODES]:
        raise UsageError(f"unknown mode {wrong[0]!r}: one of {', '.join(MODES)}")
    if FLAGS.distributed and (alone := [mode for mode in FLAGS.mode if mode in ONE_PROCESS]):
        raise UsageError(f"--mode {alone[0]} runs in one process: leave out --distributed")
    if ("import" in FLAGS.mode) != bool(FLAGS.source):
        raise UsageError(
            "--source is missing: --mode import --source FILE_OR_FOLDER"
            if "import" in FLAGS.mode
            else "--source is for --mode import"
        )
    if FLAGS.profile and "train" not in FLAGS.mode:
        raise UsageError("--profile is for --mode train")
    if rest[1:]:
        raise UsageError(f"unknown argument {rest[1]!r}; overrides read --config.field=value")
    return rest


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error.args[0] if error.args else error).split())
    if isinstance(error, AttributeError | KeyError):
        field = re.search(r"\w+", text)
        close = re.search(r'Did you mean "(\w+)"', text)
        hint = f"; did you mean {close[1]!r}?" if close else ""
        return f"the config has no field {field[0] if field else text!r}{hint}"
    return text or type(error).__name__


def main(argv: list[str]) -> None:
    """Runs the modes in turn and ends with what was reached."""
    logging.set_verbosity(logging.FATAL)  # errors are raised, and told in one line
    import jax

    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", Path.home() / ".cache/score_sde/xla")
    jax.config.update("jax_compilation_cache_dir", str(cache))

    from score_sde import hosts, mesh, survival

    if FLAGS.distributed:
        hosts.start()
    else:
        mesh.use_cores(FLAGS.config.train.batch_size // max(FLAGS.config.train.accumulate, 1))

    from score_sde import analyse, detect, edit, evaluate, importing, reference, report, tracing
    from score_sde.train import train

    def profiled(config, workdir):
        with tracing.traced(workdir / "profile") as traced:
            return train(config, workdir, traced)

    modes = {
        "import": lambda config, workdir: importing.import_checkpoint(
            config, workdir, Path(FLAGS.source)
        ),
        "train": profiled if FLAGS.profile else train,
        "sample": evaluate.sample,
        "likelihood": evaluate.likelihood,
        "evaluate": report.evaluate,
        "reference": reference.reference,
        "solvers": analyse.solvers,
        "edit": edit.edit,
        "detect": detect.detect,
    }
    given = Path(FLAGS.workdir)
    with survival.writing(given), hosts.own_workdir(given) as workdir:
        summarise({mode: modes[mode](FLAGS.config, workdir) for mode in FLAGS.mode}, workdir)


def summarise(results: dict[str, dict], workdir: Path) -> None:
    """The last screenful: what each mode got, where it lies, and what to try next."""
    for mode, result in results.items():
        print(f"\n{mode}")
        width = max(22, *map(len, result)) + 2
        for key, value in result.items():
            print(
                f"  {key:{width}}{value:.4g}"
                if isinstance(value, float)
                else f"  {key:{width}}{value}"
            )
    files = ", ".join(sorted(path.name for path in workdir.iterdir()))
    print(f"\nEverything is in {workdir}/: {files}")
    if not (workdir / "checkpoints").exists():
        return
    python = Path(sys.executable)  # the one of .venv, whether it is activated or not
    python = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    # the same network and averages; what a mode does is for the next command to say
    field = re.compile(r"--config\.(?!sampling|likelihood|evaluate)[\w.]+=")
    fields = [argument for argument in sys.argv if field.match(argument)]
    config = [f"--config={FLAGS['config'].config_filename}", *fields]
    again = shlex.join([str(python), "main.py", *config, f"--workdir={workdir}"])
    print("Try next:")
    print(f"  {again} --mode sample --config.sampling.solver=dpmpp --config.sampling.steps=20")
    print(f"  {again} --mode likelihood --config.likelihood.probes=4")
    print(f"  tensorboard --logdir {workdir}/tensorboard   (pip install tensorboard)")


def run() -> None:
    """The command line: mistakes end in one line and exit code 1, SIGTERM with 143 and SIGINT
    with 130."""
    import jax

    from score_sde import hosts
    from score_sde.checkpoint import CheckpointError
    from score_sde.config import ConfigError
    from score_sde.data import DataError
    from score_sde.evaluate import ConvergenceError
    from score_sde.survival import InterruptedRunError
    from score_sde.train import NonFiniteError

    known = (
        *(UsageError, ConfigError, DataError, CheckpointError, NonFiniteError, ConvergenceError),
        hosts.HostsError,
    )
    try:
        main(parse_flags(sys.argv))
        hosts.end()
    except known as error:
        hosts.leave(f"error: {error}", 1)
    except InterruptedRunError as error:
        hosts.leave(f"\n{error}", error.code)
    except KeyboardInterrupt:
        hosts.leave("\ninterrupted; the same command resumes from the newest checkpoint", 130)
    except jax.errors.JaxRuntimeError as error:
        hosts.leave_after(error)
    except Exception:  # a defect, which must not leave other processes waiting
        hosts.leave(traceback.format_exc(), 1)


if __name__ == "__main__":
    run()
