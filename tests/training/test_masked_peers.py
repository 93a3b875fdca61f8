"""The losses of masked tokens against the numbers of two public codes, on fixed inputs.

MD4 is google-deepmind/md4 at b9fbf29216f818cccff46cb5727199f86f35593e, `MD4.diffusion_loss` of
`md4/models/diffusion/md4.py`, run in float64. MDLM is kuleshov-group/mdlm at
c112c526d193436838c98d81455ee51f90309470, run in float64 with torch 2.13.0:
`Diffusion._forward_pass_diffusion`, `get_score` and `_score_entropy` of `diffusion.py`,
`LogLinearNoise` of `noise_schedule.py`. Their own classes ran. Only what draws and what predicts
was replaced: x_t, t and the logits are those of `inputs`, and MDLM's have a sixth column of noise
for its mask. A number is the loss of an example, a sum over its tokens, in nats.

What differs, and how the tests meet it:

- The mask is the token v in both codes, and -1 here.
- MD4 keeps alpha within [eps, 1 - eps], eps = 1e-4. Here alpha ends at 0 and 1, so the tests give
  their schedule. In the place of the likelihood at the first time MD4 adds eps l ln v.
- MDLM has alpha = 1 - (1 - eps) t, eps = 1e-3. Its weight is 1/t all the same, that of `linear`.
  It draws t from [1e-3, 1] and does not multiply by the length of that interval, as we do.
- Their losses of T steps are T times the divergence of the true reverse step from that of the
  network. Here no objective has steps; `Masking.reverse` has both laws. MDLM takes alpha = 1 - t
  there, without eps, and at most t = 1 - 1e-4. At t = 1/T it can divide 0 by 0: with T = 10 the
  first example is not a number.
- MDLM rounds t of steps, and the loss of score entropy, to float32.
- Neither code clips the weight. Both divide by the number of tokens later, as our objectives do;
  MD4 also by ln 2.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import rel_entr

from score_sde.config import build
from score_sde.models import parametrization
from score_sde.processes import MASK, Masking
from score_sde.processes.schedules import Schedule
from score_sde.sampling import likelihood
from score_sde.training.objectives.masked import masked_loss
from score_sde.training.objectives.score_entropy import entropy_loss

pytestmark = pytest.mark.usefixtures("x64")

VALUES = 5
KIND = parametrization.without_itself(parametrization.time(scale=0.0), values=VALUES)

MD4 = {  # (schedule, T): 0 is continuous time
    ("linear", 0): (
        174.0915265688727,
        23.37063964837952,
        11.188888748448415,
        40.786606601845605,
        13.321738228766,
        14.55837168103332,
    ),
    ("linear", 1000): (
        168.22244062503995,
        23.358097435969597,
        11.186230379417937,
        40.62102833994992,
        13.314740316547674,
        14.545038020488112,
    ),
    ("linear", 10): (
        35.4595020277551,
        21.460489267767244,
        10.415709028334318,
        31.282861839015435,
        13.23866695596461,
        13.074536486827212,
    ),
    ("cosine", 0): (
        174.3432793470509,
        11.942618602074639,
        3.8349985164881133,
        40.00373013386897,
        7.543406174744768,
        5.741742681142979,
    ),
    ("cosine", 1000): (
        168.45578662237133,
        11.943811333685453,
        3.841644202980283,
        39.84251793127027,
        7.544233081990907,
        5.7326746429756605,
    ),
    ("cosine", 10): (
        35.47228859254705,
        10.840388785235307,
        3.476756325045062,
        30.898365658258005,
        8.527723482973862,
        4.3642710548029235,
    ),
    ("polynomial(power=2.0)", 0): (
        281.49933665732607,
        46.73898055306583,
        22.377260356073187,
        81.28081321421897,
        26.641800659667343,
        29.115888733931413,
    ),
    ("polynomial(power=2.0)", 1000): (
        268.9907402290648,
        46.68212507316887,
        22.35859620529431,
        80.69057267193254,
        26.60868031125845,
        29.071248544035637,
    ),
}
MDLM = (
    174.94977117625558,
    23.37382167122,
    11.190224522532429,
    40.813204757975356,
    13.323653660821607,
    14.560173242732098,
)
MDLM_1000 = (
    169.0236764812264,
    23.361276365044958,
    11.18756594859951,
    40.64741378463808,
    13.31665476600812,
    14.546836117520595,
)
SCORE_ENTROPY = (
    174.94976553417308,
    23.373821657555844,
    11.190224214042736,
    40.81320357802472,
    13.323653678663419,
    14.560173428204827,
)
# MD4's loss of continuous time with eps = 0, over all masks and by Gauss's rule of 60 times
MD4_INTEGRAL = (6.5939857176412575, 5.25355585716875, 7.587105998363905)


def inputs():
    """x_0 [6, 8], x_t, the logits [6, 8, 5] and t [6]."""
    rng = np.random.default_rng(0)
    x_0 = jnp.asarray(rng.integers(0, VALUES, (6, 8)))
    logits = jnp.asarray(2 * rng.standard_normal((6, 8, VALUES)))
    t = jnp.asarray(rng.uniform(0.02, 0.98, 6))
    masks = jnp.asarray(rng.random((6, 8)) < 0.5)
    return x_0, jnp.where(masks, MASK, x_0), logits, t


def of_md4(name, eps=1e-4):
    """Its schedule, (1 - 2 eps) alpha + eps."""
    plain = build("processes.schedules", name)
    inside = 1 - 2 * eps
    schedule = Schedule(
        lambda t: inside * plain.alpha(t) + eps,
        lambda t: inside * plain.noise(t) + eps,
        lambda noise: plain.t_of_noise((noise - eps) / inside),
    )
    return Masking(schedule=schedule)


def of_mdlm(eps=1e-3):
    """Its log-linear schedule."""
    return Masking(
        schedule=Schedule(
            lambda t: 1 - (1 - eps) * t, lambda t: (1 - eps) * t, lambda noise: noise / (1 - eps)
        )
    )


def at_once(process, loss=masked_loss):
    """The loss of continuous time of each example."""
    x_0, x_t, logits, t = inputs()
    found = KIND.value(process, x_t, t, logits)
    return jnp.sum(loss(process, x_0, x_t, t, found), axis=1)


def in_steps(process, steps, last=1.0):
    """T KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of each example, s = t - 1/T."""
    x_0, x_t, logits, t = inputs()
    t = jnp.minimum((jnp.floor(t * steps) + 1) / steps, last)
    known = jax.nn.one_hot(x_0, VALUES, dtype=logits.dtype)
    true, found = (
        process.reverse(x_t, t, t - 1 / steps, x)
        for x in (known, KIND.value(process, x_t, t, logits))
    )
    (p, m), (q, n) = ((np.asarray(law.value), np.asarray(law.masked)) for law in (true, found))
    revealed = rel_entr((1 - m)[..., None] * p, (1 - n)[..., None] * q)
    return steps * np.sum(rel_entr(m, n) + np.sum(revealed, axis=2), axis=1)


@pytest.mark.parametrize(("schedule", "steps"), MD4)
def test_the_loss_is_that_of_md4(schedule, steps):
    process = of_md4(schedule)
    found = in_steps(process, steps) if steps else at_once(process)
    np.testing.assert_allclose(found, MD4[schedule, steps], rtol=1e-9)


@pytest.mark.parametrize("process", [Masking(), of_mdlm()], ids=["linear", "log-linear"])
def test_the_loss_is_that_of_mdlm(process):
    np.testing.assert_allclose(at_once(process), MDLM, rtol=1e-9)


def test_the_loss_of_steps_is_that_of_mdlm():
    """To float32, in which it has t."""
    np.testing.assert_allclose(in_steps(Masking(), 1000, last=1 - 1e-4), MDLM_1000, rtol=1e-6)


def test_score_entropy_is_that_of_mdlm():
    """Of the score that its code makes of the same logits, D alpha/(1 - alpha); float32."""
    np.testing.assert_allclose(at_once(of_mdlm(), entropy_loss), SCORE_ENTROPY, rtol=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_mean_of_all_paths_is_the_integral_of_md4(schedule):
    """`elbo` hides three tokens in one of six orders, all equally often. Its network depends on the
    other tokens and not on t, so a draw has one of six values, and their mean has no error."""
    process = Masking(schedule=schedule)
    rng = np.random.default_rng(1)
    rows = jnp.asarray(rng.integers(0, VALUES, (3, 3)))
    logits = jnp.asarray(2 * rng.standard_normal((3, 2, 2, 2, 3, VALUES)))  # of each set of masks
    draws = 100

    def denoiser(x_t, t):
        masked = (x_t == MASK).astype(int)
        chosen = logits[jnp.arange(3 * draws) % 3, masked[:, 0], masked[:, 1], masked[:, 2]]
        return KIND.value(process, x_t, t, chosen)

    keys = jax.random.split(jax.random.key(0), 3 * draws)
    found = likelihood.elbo(keys, process, denoiser, jnp.tile(rows, (draws, 1)))
    for row, wanted in enumerate(MD4_INTEGRAL):
        orders = np.unique(np.round(found[row::3], 9))
        assert len(orders) == len([*itertools.permutations(range(3))])
        assert -np.mean(orders) == pytest.approx(wanted, abs=1e-8)
