"""The command line: `python main.py ...` in a checkout, `python -m score_sde ...` anywhere."""

from __future__ import annotations

import contextlib
import importlib.machinery
import inspect
import os
import re
import shlex
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from score_sde import modes
from score_sde.errors import ConfigError, InterruptedRunError, ReportedError, one_line

MODES = modes.descriptions()
INSTALLED = Path(__file__).parent.parent  # the folder of score_sde and configs

FLAGS = flags.FLAGS
flags.DEFINE_list("mode", None, "one or more modes, with commas between")
config_flags.DEFINE_config_file("config", None, "FILE or FILE:ARGUMENT, a config in configs/")
flags.DEFINE_string("workdir", None, "the folder of checkpoints and results")
flags.DEFINE_string("source", None, "mode import: the file or folder of a published checkpoint")
flags.DEFINE_string("target", None, "mode export: the folder to make")
flags.DEFINE_bool("distributed", False, "this is one of several processes, on one or more hosts")
flags.DEFINE_boolean("profile", False, "mode train: a trace of a few steps, in DIR/profile")
flags.DEFINE_string("host", "127.0.0.1", "mode app: the address to serve the page on")
flags.DEFINE_integer("port", 7860, "mode app: its port")
flags.DEFINE_boolean("public", False, "mode app: allow a --host that other machines reach")
flags.DEFINE_boolean("dry_run", False, "mode train: print the config and the cost, and stop")


def program() -> list[str]:
    """What follows `python` in this command."""
    return ["main.py"] if Path(sys.argv[0]).name == "main.py" else ["-m", "score_sde"]


_OF_APP = ("host", "port", "public")


def help_page() -> str:
    """What `--help` prints."""
    python = " ".join(["python", *program()])
    names = ("mode", "config", "workdir", "source", "target", "distributed", "profile", "dry_run")
    names += _OF_APP
    rows = [(f"--{name}", FLAGS[name].help) for name in names]
    modes_, flags_ = (
        "\n".join(f"  {name:14}{text}" for name, text in table) for table in (MODES.items(), rows)
    )
    return f"""\
{python} --mode MODE[,MODE...] --config FILE --workdir DIR [--config.FIELD=VALUE ...]

Modes, which run in the order given:
{modes_}

Flags:
{flags_}

Fields of the config, with their defaults and what they mean, are listed in
score_sde/experiment/base.py.
A field is overridden on the command line, after --config; calls and tuples need quotes:
  --config.train.steps=1000 --config.sde='VP(beta_max=10.0)' --config.sampling.labels='(0, 1)'
A wrong name of a field, or of what a field names, is answered with the right ones.

Examples:
  {python} --mode train,sample --config configs/digits.py --workdir runs/digits
  {python} --mode sample --config configs/digits.py --workdir runs/digits \\
      --config.sampling.solver=dpmpp --config.sampling.steps=20
  {python} --mode import,sample --config configs/diffusers.py:FOLDER --source FOLDER \\
      --workdir runs/imported
"""


class UsageError(ReportedError):
    """Flags that make no sense."""


_WHOLE: dict[str, str] = {}
"""Parts that the command line sets as a whole, such as {"codec": "pixels()"}."""


class ConfigFile(flags.ArgumentParser):
    """FILE or FILE:ARGUMENT to the config that its `get_config(ARGUMENT)` makes.

    A FILE that is not here is looked for beside the package, where a wheel has configs/. In the
    place of ml_collections' parser, which puts tracebacks into its messages.
    """

    def parse(self, argument: str) -> ConfigDict:
        path, *given = argument.split(":", 1)
        if not Path(path).exists() and (INSTALLED / path).is_file():
            path = str(INSTALLED / path)
        if not Path(path).is_file():
            wrong = "It is a folder" if Path(path).is_dir() else "No such file"
            raise UsageError(f"--config {path}: {wrong}")
        _import_jax()
        try:
            module = _run_file(path)
            if not hasattr(module, "get_config"):
                raise UsageError(f"{path} has no function get_config")
            config = module.get_config(*given)
        except (UsageError, ConfigError) as error:
            raise UsageError(str(error)) from error
        except SyntaxError as error:
            raise UsageError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
        except Exception as error:  # config files are code, and may raise anything
            frames = traceback.extract_tb(error.__traceback__)
            lines = [f", line {frame.lineno}" for frame in frames if frame.filename == path]
            where = path + "".join(lines[-1:])
            raise UsageError(f"{where}: {type(error).__name__}: {error}") from error
        _check_parts(path, config)
        from score_sde.experiment.base import part_of

        for name, call in _WHOLE.items():
            try:
                config[name] = part_of(call)
            except ConfigError as error:
                raise UsageError(f"--config.{name}: {error}") from error
        return config.lock()


FLAGS["config"].parser = ConfigFile()


def _run_file(path: str) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("config_of_command_line", path)
    module = ModuleType(loader.name)
    module.__file__ = path
    sys.modules[loader.name] = module  # as its dataclasses need
    loader.exec_module(module)
    return module


def _check_parts(path: str, config: Any) -> None:
    """Whether a config has what the modes read. The fields of a part with a name are those of what
    it names."""
    if not isinstance(config, ConfigDict):
        raise UsageError(
            f"{path}: get_config() gives a {type(config).__name__}, not a ConfigDict: begin with "
            "configs.base.get_config()"
        )
    from score_sde.experiment import base

    missing = []
    for name, part in base.get_config().items():
        if name not in config or isinstance(part, ConfigDict) != isinstance(
            config[name], ConfigDict
        ):
            missing.append(name)
        elif isinstance(part, ConfigDict) and "name" not in part:
            missing += [f"{name}.{field}" for field in part if field not in config[name]]
    if missing:
        raise UsageError(
            f"{path}: the config lacks {', '.join(missing)}: begin with configs.base.get_config()"
        )


def _import_jax() -> None:
    """Imports JAX, which reads the environment then."""
    try:
        import jax  # noqa: F401
    except ValueError as error:
        name = re.search(r"JAX flag (\w+)", str(error))
        variable = name[1].upper() if name else "JAX_..."
        raise UsageError(f"{error}: mend or unset the environment's {variable}") from error


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; every mistake becomes a UsageError of one line."""
    whole = {word: re.match(r"--?config\.(net|data|codec|objective)=(.*)", word) for word in argv}
    _WHOLE.clear()
    _WHOLE.update({found[1]: found[2] for found in whole.values() if found})
    try:
        rest = FLAGS([word for word in argv if not whole[word]])
    except UsageError:
        raise
    except Exception as error:  # whatever the parsers of overrides run into
        raise UsageError(_one_line(error)) from error
    for name in ("mode", "workdir", "config"):
        if not getattr(FLAGS, name) and not (name == "workdir" and FLAGS.dry_run):
            raise UsageError(
                f"--{name} is missing: python {' '.join(program())} --mode train "
                "--config configs/digits.py --workdir runs/digits, or --help for all of them"
            )
    if wrong := [mode for mode in FLAGS.mode if mode not in MODES]:
        raise UsageError(f"unknown mode {wrong[0]!r}: one of {', '.join(MODES)}")
    for mode, flag, what in (
        ("import", "source", "FILE_OR_FOLDER"),
        ("export", "target", "FOLDER"),
    ):
        if (mode in FLAGS.mode) != bool(FLAGS[flag].value):
            raise UsageError(
                f"--{flag} is missing: --mode {mode} --{flag} {what}"
                if mode in FLAGS.mode
                else f"--{flag} is for --mode {mode}"
            )
    if FLAGS.profile and "train" not in FLAGS.mode:
        raise UsageError("--profile is for --mode train")
    for flag in _OF_APP:
        if FLAGS[flag].present and "app" not in FLAGS.mode:
            raise UsageError(f"--{flag} is for --mode app")
    if FLAGS.dry_run and FLAGS.mode != ["train"]:
        raise UsageError("--dry_run is for --mode train, alone")
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

    from score_sde.runtime import hosts, mesh, signals

    if FLAGS.distributed:
        for name in FLAGS.mode:
            if getattr(modes.module(name), "ONE_PROCESS", False):
                raise UsageError(f"--mode {name} runs in one process: leave out --distributed")
        hosts.start()
    else:
        mesh.use_cores(FLAGS.config.train.batch_size // max(FLAGS.config.train.accumulate, 1))

    if FLAGS.dry_run:
        from score_sde.experiment import dry_run

        print_result("dry run", dry_run.describe(FLAGS.config))
        return
    given = Path(FLAGS.workdir)
    with signals.writing(given), hosts.own_workdir(given) as workdir:
        summarise({mode: run_mode(mode, workdir) for mode in FLAGS.mode}, workdir)


def run_mode(name: str, workdir: Path) -> dict:
    """Runs a mode with the flags that it has parameters for.

    Raises:
      CheckpointError: another run of the mode writes into the workdir.
    """
    from score_sde.runtime.signals import only_run

    mode = modes.function(name)
    given = {
        "source": FLAGS.source and Path(FLAGS.source),
        "target": FLAGS.target and Path(FLAGS.target),
        "profile": FLAGS.profile,
        "again": again(workdir),
        **{flag: FLAGS[flag].value for flag in _OF_APP},
    }
    wanted = given.keys() & inspect.signature(mode).parameters.keys()
    # two runs of a mode would write the same files; two pages have a folder for each figure
    locked = name != "app" and workdir.is_dir() and any(workdir.iterdir())
    with only_run(workdir, f".lock_{name}") if locked else contextlib.nullcontext():
        return mode(FLAGS.config, workdir, **{flag: given[flag] for flag in wanted})


def summarise(results: dict[str, dict], workdir: Path) -> None:
    """The last screenful: what each mode got, where it lies, and what to try next."""
    for mode, result in results.items():
        print_result(mode, result)
    files = ", ".join(sorted(path.name for path in workdir.glob("[!.]*")))
    print(f"\nEverything is in {workdir}/: {files}")
    if not (workdir / "checkpoints").exists():
        return
    from score_sde.experiment import uses

    same = shlex.join(filter(uses.stays, again(workdir)))
    print("Try next:")
    for command in uses.commands(workdir):
        print(f"  {same} {command}")
    for field in uses.fields(workdir):
        print(f"  another model with {field}")
    print(f"  tensorboard --logdir {workdir}/tensorboard   (pip install tensorboard)")


def again(workdir: Path) -> list[str]:
    """This command without its modes: its program, config, fields and workdir."""
    python = Path(sys.executable)  # the one of .venv, whether it is activated or not
    python = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    fields = [argument for argument in sys.argv if re.match(r"--config\.[\w.]+=", argument)]
    config = f"--config={FLAGS['config'].config_filename}"  # pyright: ignore[reportAttributeAccessIssue]
    return [str(python), *program(), config, *fields, f"--workdir={workdir}"]


def print_result(mode: str, result: dict) -> None:
    """What a mode got, a line each."""
    print(f"\n{mode}")
    width = max(22, *map(len, result)) + 2
    for key, value in result.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"  {key:{width}}{shown}")


def _within_a_line(error: Exception) -> str:
    """The message of an error. Names out of a foreign file may be long, of several lines, or hold
    signs that a terminal obeys."""
    text = one_line(error, most=10**7)
    return text if len(text) <= 2000 else f"{text[:1500]} ... {text[-400:]}"


def run() -> None:
    """The command line: mistakes end in one line and exit code 1, SIGTERM with 143 and SIGINT
    with 130."""
    if {"-h", "--help", "--helpfull"} & set(sys.argv[1:]):
        print(help_page(), end="")
        return
    try:
        arguments = parse_flags(sys.argv)
    except UsageError as error:
        sys.exit(f"error: {_within_a_line(error)}")

    import jax

    from score_sde.runtime import hosts

    try:
        main(arguments)
        hosts.end()
    except InterruptedRunError as error:
        hosts.leave(f"\n{error}", error.code)
    except ReportedError as error:
        hosts.leave(f"error: {_within_a_line(error)}", error.code)
    except KeyboardInterrupt:
        hosts.leave("\ninterrupted; the same command resumes from the newest checkpoint", 130)
    except jax.errors.JaxRuntimeError as error:
        hosts.leave_after(error)
    except Exception:  # a defect, which must not leave other processes waiting
        hosts.leave(traceback.format_exc(), 1)
