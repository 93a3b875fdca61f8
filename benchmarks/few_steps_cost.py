"""What a training step of a flow map costs: `python benchmarks/few_steps_cost.py`.

Each row is the processor time of a compiled training step of a config of the digits, the median
over rounds, and its ratio to that of a denoising step of the same network in the same round.
Teachers are networks with random weights. About five minutes on two cores.
"""

import statistics
import time

import command
import jax

from configs import (
    digits_alpha_flow,
    digits_ctm,
    digits_improved_mean_flow,
    digits_mean_flow,
    digits_scm,
    digits_terminal_velocity,
)
from score_sde.data import train_iterator
from score_sde.experiment import build
from score_sde.experiment.program import compiled_step, stack
from score_sde.training.teacher import Teacher

DENOISING = {"name": "denoising", "time_law": "uniform", "weighting": "simple"}


def without_teacher(config):
    """The config, which trains without a teacher."""
    config.objective.teacher = ""
    return config


def from_step(config, step):
    """The config of an alpha-flow, which is a mean flow after this step."""
    config.objective.update({"start": -1, "end": step})
    return config


CONFIGS = {
    "mean_flow": digits_mean_flow.get_config,
    "improved_mean_flow": digits_improved_mean_flow.get_config,
    "alpha_flow, at its start": digits_alpha_flow.get_config,
    "alpha_flow, at its end": lambda: from_step(digits_alpha_flow.get_config(), 0),
    "terminal_velocity": digits_terminal_velocity.get_config,
    "scm": lambda: without_teacher(digits_scm.get_config()),
    "scm, distilled": digits_scm.get_config,
    "ctm": digits_ctm.get_config,
}


def training(config):
    """`() -> seconds` of the processor that a step takes."""
    experiment = build.build_experiment(config)
    if config.objective.get("teacher"):
        model = experiment.model
        params = build.initial_state(config, experiment).params
        of_cond = jax.tree_util.Partial(
            lambda params, cond: lambda x, t: model.denoiser(params, cond)(x, t), params
        )
        teacher = Teacher(of_cond, params)
        experiment = build.build_experiment(config, experiment.data, teacher=teacher)
    state, key = build.initial_state(config, experiment), jax.random.key(0)
    batches = train_iterator(experiment.data.train, batch_size=config.train.batch_size, seed=0)
    batch = stack(batches, 1, experiment.sharded(axis=1))
    step = compiled_step(config, experiment, 1)

    def run():
        nonlocal state
        start = time.process_time()
        state, metrics = step(key, state, batch)
        jax.block_until_ready((state, metrics))
        return time.process_time() - start

    run()
    return run


def main() -> None:
    """Prints a Markdown table."""
    parser = command.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=5, help="steps of each in a round")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--objectives", nargs="+", default=[*CONFIGS], choices=[*CONFIGS])
    options = command.parse(parser, rounds=1, steps=1, batch=2, objectives=["mean_flow"])

    print("| objective | processor time of a step | denoising steps |\n| --- | --- | --- |")
    plain = {}
    for name in options.objectives:
        config, denoising = CONFIGS[name](), CONFIGS[name]()
        denoising.objective = DENOISING
        config.train.batch_size = denoising.train.batch_size = options.batch
        reads = tuple(config.net.numbers)  # in this alone the networks differ
        if reads not in plain:
            plain[reads] = training(denoising)
        run, base = training(config), plain[reads]
        times = [
            [sum(each() for _ in range(options.steps)) / options.steps for each in (run, base)]
            for _ in range(options.rounds)
        ]
        own = statistics.median(first for first, _ in times)
        ratio = statistics.median(first / second for first, second in times)
        print(f"| {name} | {own * 1e3:.0f} ms | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
