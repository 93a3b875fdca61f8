"""Kills a training with SIGKILL at random moments, and compares it with one left alone.

    python tests/soak.py --kills 20
    python tests/soak.py --kills 20 --kind adapter

The parameters, averages and optimiser's state that both end with must be equal bit for bit, and
so must the losses of every step. Exit code 0 if they are. (At the end Python tells of leaked
semaphores: those of the killed, which it then frees.)
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests import students, xla
from tests.stored import arrays

ROOT = Path(__file__).parent.parent
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
# The children are forked from a server that has imported everything, and started no backend of
# JAX: so each begins as a new process, without the seconds of imports.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *(
            "score_sde.command_line",
            "score_sde.modes.train",
            "score_sde.modes.evaluate",
            "score_sde.modes.edit",
            "score_sde.modes.detect",
        ),
        *("score_sde.modes.import_", "score_sde.nets.mlp", "configs.digits", "sklearn.datasets"),
        *("grain", "matplotlib.backends.backend_agg", "tensorboardX.event_file_writer"),
    ]
)


def command(workdir, steps, config_file="tests/perceptron.py", **changes):
    """Arguments of main.py: a perceptron on the digits, a checkpoint every fourth step."""
    config = {
        "train.steps": steps,
        "train.batch_size": 16,
        "train.log_every": 1,
        "train.checkpoint_every": 4,
        "train.sample_every": 0,
        "train.ema_lengths": (0.1,),
        "train.ema_every": 4,
        **changes,
    }
    return [
        "main.py",
        *("--mode", "train", "--workdir", str(workdir)),
        *("--config", str(ROOT / config_file)),
        *(f"--config.{key}={value}" for key, value in config.items()),
    ]


def child(arguments, output, devices):
    """`python main.py ARGUMENTS` in a process of its own, with what it prints in a file."""
    with Path(output).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["XLA_FLAGS"] = xla.flags(devices)
    # most of a child's time is compiling; and a cache that is killed while it writes is tried too
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(output).parent / "xla"))
    import jax

    from score_sde import command_line

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    sys.argv = arguments
    command_line.run()


def start(workdir, steps, devices=1, **changes):
    """The process of a run; its output is added to WORKDIR.log."""
    arguments = (command(workdir, steps, **changes), f"{workdir}.log", devices)
    process = FORKS.Process(target=child, args=arguments)
    process.start()
    return process


def rows(workdir):
    """The whole rows of metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def wait_for(workdir, step, process, seconds=120):
    """Waits until a step is logged; False if the process ended before."""
    end = time.monotonic() + seconds
    while process.is_alive():
        logged = rows(workdir)
        if logged and logged[-1]["step"] >= step:
            return True
        if time.monotonic() > end:
            raise TimeoutError(f"no step {step} after {seconds} s: see {workdir}.log")
        time.sleep(0.002)
    return False


def kill_at_random(workdir, steps, kills, seed=0, first=0, **changes):
    """Starts a run, kills it and starts it again, at random after step `first`, and lets it end;
    returns the steps at which it was killed."""
    choose = random.Random(seed)
    # not in the last steps, or it would end before it is killed
    targets = sorted(choose.randrange(first + 1, steps - 8) for _ in range(kills))
    killed = []
    for target in targets:
        process = start(workdir, steps, **changes)
        if not wait_for(workdir, target, process):
            break
        time.sleep(choose.uniform(0, 0.05))  # in a step, in a save, or between
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            break
        killed.append(rows(workdir)[-1]["step"])
    finished(start(workdir, steps, **changes), workdir)
    return killed


def finished(process, workdir):
    """Waits for a run to end well."""
    process.join()
    if process.exitcode:
        raise RuntimeError(f"exit code {process.exitcode}: see {workdir}.log")


def of_kind(kind, folder):
    """The changes of a run that rests on another (`students.KINDS`), which is made in the folder;
    none of "pixels"."""
    if kind == "pixels":
        return {}
    config_file, of_below, below = students.config_files(kind, folder)
    finished(start(below, 4, config_file=of_below), below)
    return {"config_file": config_file}


def state_of(workdir):
    """The arrays of the newest checkpoint, by name, and the state of its data iterator."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    newest = workdir / "checkpoints" / str(max(steps))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sharding info")
        tree = ocp.PyTreeCheckpointer().restore(newest / "state")
    found = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    return int(newest.name), found, json.loads((newest / "data" / "metadata").read_text())


def differences(one, other):
    """What the ends of two runs do not share, as lines; none if they are equal bit for bit."""

    (step, found, data), (step_2, found_2, data_2) = map(state_of, (one, other))
    lines = [f"step {step} and {step_2}"] if step != step_2 else []
    lines += ["the data iterator"] if data != data_2 else []
    lines += [
        name
        for name in found.keys() | found_2.keys()
        if name not in found
        or name not in found_2
        or found[name].tobytes() != found_2[name].tobytes()
    ]
    averages, averages_2 = (
        {path.name: arrays(path) for path in (workdir / "averages").glob("*.npz")}
        for workdir in (one, other)
    )
    lines += ["the steps of averages"] if averages.keys() != averages_2.keys() else []
    for name in averages.keys() & averages_2.keys():
        stored, stored_2 = averages[name], averages_2[name]
        if stored.keys() != stored_2.keys() or any(
            stored[key].tobytes() != stored_2[key].tobytes() for key in stored
        ):
            lines.append(f"averages/{name}")
    losses, losses_2 = ([(r["step"], r["loss"]) for r in rows(w)] for w in (one, other))
    return lines + (["the losses"] if losses != losses_2 else [])


def main():
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=("pixels", *students.KINDS), default="pixels")
    parser.add_argument("--folder", type=Path, help="where the runs are kept; default: removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        steps = 10 * options.kills + 20
        begin, changes = time.perf_counter(), of_kind(options.kind, folder)
        finished(start(folder / "alone", steps, **changes), folder / "alone")
        killed = kill_at_random(folder / "killed", steps, options.kills, options.seed, **changes)
        differing = differences(folder / "alone", folder / "killed")
        print(f"{steps} steps, killed {len(killed)} times, after steps {killed}")
        print(f"{time.perf_counter() - begin:.0f} s")
        print("differ: " + ", ".join(differing) if differing else "equal bit for bit")
        if differing or len(killed) < options.kills:
            sys.exit(1)


if __name__ == "__main__":
    main()
