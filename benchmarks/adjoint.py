"""Adjoint matching against closed forms: `python benchmarks/adjoint.py`.

The figures of docs/research/adjoint.md:

- the share of the shift of the mean by a linear reward, by stochasticity and schedule, with 200
  steps, and as the formula says;
- how heavy the tails of the lean adjoint are, between modes of the base and on one mode;
- what clipping the gradient of a reward leads to, by quadrature and as trained;
- eight Gaussians learnt from their energy, with ln Z between its bounds (`--picture FILE`);
- digits that were fine-tuned to be sevens, told by a support vector machine fitted to the real
  training digits, after the commands in configs/digits_reward.py:

      python benchmarks/adjoint.py --workdirs runs/digits runs/reward
"""

from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np
import optax
from classes import frechet, real, spread
from sklearn.svm import SVC

import score_sde
from configs import ring_energy
from score_sde.experiment import build as experiments
from score_sde.models import rewards
from score_sde.processes import VP, exact
from score_sde.sampling import grids, log_partition, sample
from score_sde.solvers import dpmpp
from score_sde.solvers.kernels import kernels
from score_sde.training import lean_adjoint
from score_sde.training.objective import Training

TAUS = (0.25, 0.5, 0.7, 1.0)
SCHEDULES = {"Stable Diffusion's end": VP(beta_max=10.62), "VP": VP()}
LABEL = 7
STD = 0.35  # of the components of configs/ring_energy.py


def shares(steps: int) -> None:
    """Prints the table of shares, on N(0, 1)."""
    law = exact.Gaussian(jnp.zeros(1), jnp.eye(1))
    print("| schedule | tau | formula | measured |\n|---|---|---|---|")
    for name, sde in SCHEDULES.items():
        base, times = law.denoiser(sde), grids.uniform(sde, steps)
        alpha2 = float(sde.alpha(times[0])) ** 2
        for tau in TAUS:
            chain = kernels(sde, times, tau)
            states = jnp.zeros((steps + 1, 1, 1))  # the adjoint is the same on all paths
            tilted = lean_adjoint.tilted(sde, chain, tau, base, states, jnp.ones((1, 1)))
            change = tilted - base(jnp.zeros((1, 1)), chain.start[0])

            def one(x, inputs, base=base):
                step, change = inputs
                return step.linear * x + step.weight * (base(x, step.start) + change), None

            x, _ = jax.lax.scan(one, jnp.zeros((1, 1)), (chain, change))
            print(f"| {name} | {tau} | {1 - alpha2 ** (tau**2):.4f} | {float(x[0, 0]):.4f} |")


def tails(paths: int) -> None:
    """Prints by how much the largest lean adjoint of paths of the base exceeds their mean."""
    sde = VP(t_min=1e-3)
    laws = {"three modes": exact.three_gaussians(), "one": exact.Gaussian(jnp.zeros(2), jnp.eye(2))}
    for name, law in laws.items():
        chain = kernels(sde, grids.log_snr(sde, 64))
        start = sde.prior_sample(jax.random.key(0), (paths, 2))
        states = lean_adjoint.paths(jax.random.key(1), chain, law.denoiser(sde), start)
        ones = jnp.ones((paths, 2))
        adjoint, _ = lean_adjoint.adjoints(chain, law.denoiser(sde), states, ones)
        size = np.linalg.norm(np.asarray(adjoint[20]), axis=1)
        level, ratio = float(sde.log_snr(chain.start[20])), size.max() / size.mean()
        print(f"lean adjoint at log-SNR {level:.1f}, {name}: largest/mean {ratio:.1f}")


def learn(config, log_density=None, steps=None, anneal=None):
    """The experiment of an energy, and its parameters after training."""
    if steps:
        config.train.steps, config.objective.anneal = steps, steps // 2
    if anneal is not None:
        config.objective.anneal = anneal
    experiment = experiments.build_experiment(config)
    objective = experiment.objective
    if log_density is not None:
        losses = objective.losses.func
        objective = objective._replace(
            losses=jax.tree_util.Partial(losses, jax.tree_util.Partial(log_density))
        )
    shape = (config.train.batch_size, *experiment.codec.shape)
    batch = {"x": jnp.zeros(shape), "cond": {"label": jnp.zeros(shape[0], jnp.int32)}}
    optimizer = experiment.optimizer

    def step(carry, inputs):
        (params, state), (number, key) = carry, inputs

        def loss(params):
            return jnp.mean(objective.losses(params, key, batch, Training(number)).value)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = experiment.init(jax.random.key(0), batch)
    numbers = jnp.arange(config.train.steps)
    keys = numbers, jax.random.split(jax.random.key(1), config.train.steps)
    run = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), keys))
    (params, _), _ = run(params)
    return experiment, params


def draw(experiment, params, n: int):
    """Samples of the ODE in 40 steps."""
    sde = experiment.model.sde
    x = sde.prior_sample(jax.random.key(2), (n, *experiment.codec.shape))
    denoiser = experiment.model.denoiser(params, {})
    run = jax.jit(
        lambda x: sample(jax.random.key(3), dpmpp(sde), denoiser, x, grids.log_snr(sde, 40))
    )
    return np.asarray(run(x).x)


def clipped(reward, most: float):
    """The reward whose gradient, of each example, has at most this norm."""

    @jax.custom_vjp
    def changed(x):
        return reward(x)

    def forward(x):
        return reward(x), jax.grad(lambda x: jnp.sum(reward(x)))(x)

    def backward(gradient, by_value):
        norm = jnp.linalg.norm(gradient, axis=1, keepdims=True)
        return (by_value[:, None] * gradient * jnp.minimum(1, most / norm),)

    changed.defvjp(forward, backward)
    return changed


def clipping(steps: int) -> None:
    """Prints mean and standard deviation of N(0, 1) times e^r, r = -2 (x - 3)^2."""
    x = np.linspace(-8, 8, 16001)
    reward = rewards.quadratic((3.0,), 0.5)
    print("| gradient clipped at | mean | std | mean as trained | std |\n|---|---|---|---|---|")
    for most in (np.inf, 4.0, 1.0):
        away = np.abs(x - 3)
        inside = np.minimum(away, most / 4)  # where the gradient is not clipped
        r = -2 * inside**2 - 4 * inside * (away - inside)
        p = np.exp(r - x**2 / 2)
        p /= p.sum()
        mean = (p * x).sum()
        std = np.sqrt((p * (x - mean) ** 2).sum())
        config = ring_energy.get_config()
        config.data.shape = (1,)
        config.train.batch_size = 512
        changed = reward if most == np.inf else clipped(reward, most)

        def log_density(x, changed=changed):
            return changed(x) - jnp.sum(x**2, axis=1) / 2

        found = draw(*learn(config, log_density, steps), 4000)
        print(f"| {most} | {mean:.3f} | {std:.3f} | {found.mean():.3f} | {found.std():.3f} |")


def energy(steps: int | None, anneal: int | None, picture: Path | None) -> None:
    """Prints the bounds of ln Z of the ring, and how evenly its modes are found."""
    experiment, params = learn(ring_energy.get_config(), steps=steps, anneal=anneal)
    sde, denoiser = experiment.model.sde, experiment.model.denoiser(params, {})
    law, log_mass, n = exact.ring(8, 1.5, STD), 3.0, 4096
    x = law.sample(jax.random.key(5), n)

    def log_density(x):
        return law.log_density(x) + log_mass

    for count in (32, 256):
        times = grids.log_snr(sde, count)
        given = (sde, denoiser, log_density, times)
        down = jax.jit(lambda key, given=given: log_partition.of_sampler(key, *given, x.shape))
        up = jax.jit(lambda key, given=given: log_partition.of_samples(key, *given, x))
        down, up = (f(jax.random.key(6)).log_weight for f in (down, up))
        found = log_partition.mean(down), log_partition.log_mean(down), log_partition.mean(up)
        told = ", ".join(f"{e.value:.3f} +- {e.standard_error:.3f}" for e in found)
        print(f"ln Z = {log_mass}, {count} steps: ELBO, estimate, EUBO: {told}")
    drawn = draw(experiment, params, n)
    squares = ((drawn[:, None] - np.asarray(law.points)[None]) ** 2).sum(axis=2)
    share = np.bincount(squares.argmin(axis=1), minlength=8) / n
    print("shares of the eight modes:", " ".join(f"{s:.3f}" for s in share))
    rms = np.sqrt(squares.min(axis=1).mean())
    print(f"distance to the nearest mean, rms {rms:.3f}, law {STD * 2**0.5:.3f}")
    if picture:
        draw_picture(picture, x, drawn)


def draw_picture(path: Path, truth, drawn) -> None:
    """Draws samples of the law and of the model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.6), layout="constrained")
    start = np.random.default_rng(0).normal(size=(1500, 2))
    panels = ("the base, N(0, I)", start), ("learnt from the energy", drawn), ("the law", truth)
    for axis, (title, x) in zip(axes, panels, strict=True):
        axis.plot(*np.asarray(x)[:1500].T, ".", ms=3, color="steelblue", alpha=0.6, mew=0)
        axis.set(
            title=title, aspect="equal", xlim=(-2.7, 2.7), ylim=(-2.7, 2.7), xticks=[], yticks=[]
        )
    figure.savefig(path, dpi=110)


def digits(workdirs: list[Path], number: int) -> None:
    """Prints what a support vector machine takes samples for."""
    data = score_sde.load(workdirs[0]).data
    (train, label), (test, test_label) = map(real, (data.train, data.test))
    svm = SVC(C=10).fit(train, label)
    sets = {"test sevens": test[test_label == LABEL]}
    for workdir in workdirs:
        model = score_sde.load(workdir)
        x = model.sample(jax.random.key(0), number, steps=20, solver="dpmpp", grid="log_snr")
        sets[str(workdir)] = np.asarray(model.codec.raw_of(x)).reshape(number, -1) / 16
    print("| samples | sevens | spread | Frechet distance to training sevens |")
    print("|---|---|---|---|")
    for name, x in sets.items():
        told, wide = (svm.predict(x) == LABEL).mean(), spread(x, np.zeros(len(x), int))
        print(f"| {name} | {told:.3f} | {wide:.3f} | {frechet(x, train[label == LABEL]):.3f} |")


def main() -> None:
    """Prints the tables."""
    parser = command.parser(__doc__)
    parser.add_argument("--workdirs", nargs="*", type=Path, default=[], help="base and fine-tuned")
    parser.add_argument("--number", type=int, default=1000, help="of digits drawn")
    parser.add_argument("--steps", type=int, help="of training from the energy; 800 by its config")
    parser.add_argument("--anneal", type=int, help="steps of it in which the reward grows")
    parser.add_argument("--clip-steps", type=int, default=300, help="of training in one dimension")
    parser.add_argument("--paths", type=int, default=8192, help="for the tails")
    parser.add_argument("--picture", type=Path, help="a PNG file")
    options = command.parse(parser, steps=2, clip_steps=2, paths=64)
    if options.workdirs:
        digits(options.workdirs, options.number)
        return
    shares(20 if options.small else 200)
    tails(options.paths)
    clipping(options.clip_steps)
    energy(options.steps, options.anneal, options.picture)


if __name__ == "__main__":
    main()
