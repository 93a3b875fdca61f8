"""Adams methods by name: one evaluation a step, and the predictions of earlier steps.

Each is a choice of prediction, variable, order, corrector and noise for `solvers/multistep.py`,
whose docstring explains the options. The letters of the equations are those of `score_sde.solvers`.
"""

from __future__ import annotations

from jaxtyping import Array

from score_sde.processes import SDE
from score_sde.solvers import exponential
from score_sde.solvers.multistep import multistep
from score_sde.types import Solver

__all__ = ["deis", "dpmpp", "dpmpp_sde", "ipndm", "lms", "sa_solver", "unipc"]


def dpmpp(
    sde: SDE, order: int = 2, slope: str = "bh2", start_order: int = 1, end_order: int | None = None
) -> Solver:
    """DPM-Solver++ kM (Lu et al. 2022, arXiv:2211.01095, alg. 2). Order 2 for 10 to 50 steps, 3 for
    more; `end_order=1` for fewer than 10.

    Order 1 is `ddim`; order 2,

        x_s = (sigma_s/sigma_t) x_t + alpha_s (1 - e^-h) (D_0 + (D_0 - D_1)/(2 r))
        r = (lambda_t - lambda_1)/h, lambda_1 that of D_1

    and above, with P the polynomial in lambda through D_0 to D_{k-1},

        x_s = (sigma_s/sigma_t) x_t + sigma_s int_{lambda_t}^{lambda_s} e^lambda P(lambda) dlambda

    Orders 1 to 4, deterministic, one evaluation a step. From order 3 on the printed 3M is not the
    exact integral; here it is. The default start, a step of order 1, lowers the order of the whole
    to 2; `start_order` of the method's order keeps it.

    slope: of order 2: "bh2", the paper's, as above; "exact", that of the integral, as `deis` takes
        it in the data prediction.
    """
    return multistep(sde, order, slope=slope, start_order=start_order, end_order=end_order)


def dpmpp_sde(
    sde: SDE,
    order: int = 2,
    tau: float | Array = 1.0,
    slope: str = "bh2",
    end_order: int | None = None,
) -> Solver:
    """SDE-DPM-Solver++ kM (Lu et al. 2022, arXiv:2211.01095, eq. 18 and app. D). With kappa =
    1 + tau^2 and r as in `dpmpp`, order 2 is

        x_s = (sigma_s/sigma_t) e^{-tau^2 h} x_t
              + alpha_s (1 - e^{-kappa h}) (D_0 + (D_0 - D_1)/(2 r))
              + sigma_s sqrt(1 - e^{-2 tau^2 h}) z

    and above, the second line is the integral of `sa_solver`. Orders 1 to 3, one evaluation a step,
    stochastic: weak order 2 from order 2 on, strong order 1. For 20 to 100 steps where the errors
    of an ODE solver show.
    """
    return multistep(sde, order, noise=exponential.tau(tau), slope=slope, end_order=end_order)


def deis(
    sde: SDE,
    order: int = 3,
    variable: str = "t",
    start_order: int = 1,
    end_order: int | None = None,
) -> Solver:
    """DEIS (Zhang & Chen 2023, arXiv:2204.13902, eq. 15): with P the polynomial in the variable
    through eps_0 to eps_{k-1},

        x~_s = x~_t + int_{rho_t}^{rho_s} P drho

    variable: "t" (tAB-DEIS), "rho" (rhoAB, the same as `lms`) or "log_rho".

    Orders 1 to 4, deterministic, one evaluation a step. The default start lowers the order of the
    whole to 2; `start_order` of the method's order keeps it. tAB for 5 to 15 steps of a VP process,
    log_rho for wide ranges of noise.
    """
    return multistep(sde, order, "eps", variable, start_order=start_order, end_order=end_order)


def lms(sde: SDE, order: int = 4, start_order: int = 1, end_order: int | None = None) -> Solver:
    """The linear multistep sampler of k-diffusion: Adams-Bashforth on dx~ = eps drho, with the
    coefficients of unequal steps. With rho_j that of eps_j,

        x~_s = x~_t + sum_j c_j eps_j
        c_j = int_{rho_t}^{rho_s} prod_{i != j} (rho - rho_i)/(rho_j - rho_i) drho

    Orders 1 to 4, deterministic, one evaluation a step. The default start, steps of order 1, 2,
    ..., lowers the order of the whole to 2; `start_order=3` keeps it. For fine grids, where noise
    varies smoothly from step to step.
    """
    return deis(sde, order, "rho", start_order, end_order)


def ipndm(sde: SDE, order: int = 4, variable_step: bool = True) -> Solver:
    """iPNDM (Zhang & Chen 2023, arXiv:2204.13902, app. B): Adams-Bashforth that grows from order 1.

        x~_s = x~_t + (rho_s - rho_t) (55 eps_0 - 59 eps_1 + 37 eps_2 - 9 eps_3)/24

    are its published coefficients, those of equal steps: variable_step=False. The default has
    those of unequal steps; it is `lms` with its default start.

    Deterministic, one evaluation a step. Order 2 on any grid by default, and on smooth grids as
    published. The published form is robust at 5 to 10 steps.
    """
    return multistep(sde, order, "eps", "rho" if variable_step else "index")


def unipc(
    sde: SDE,
    order: int = 2,
    variant: str = "bh2",
    prediction: str = "x0",
    start_order: int = 1,
    end_order: int | None = 1,
) -> Solver:
    """UniPC-p (Zhao et al. 2023, arXiv:2302.04867, alg. 5-8): a step of `dpmpp`, then corrected.

        predict  x_s = (sigma_s/sigma_t) x_t + sigma_s int e^lambda P(lambda) dlambda
        correct  the same with P through D(x_s, s) as well

    with P through D_0 to D_{p-1}, the integral from lambda_t to lambda_s. Each value of the
    denoiser corrects the state at which it was taken, then predicts the next.

    variant: the weight of the slope of a P of degree 1: "bh1" or "bh2" (`Interpolation.slope`).
    prediction: "x0", or "eps" for the same in the noise, with the integral of `deis` in "log_rho".

    Order p + 1, p from 1 to 4; deterministic, one evaluation a step. As published, the last step
    has order 1 and is not corrected, which lowers the order of the whole to 2. `end_order=None`
    makes it 3, and `start_order=p` (3 at most) with it p + 1 (4 at most). For 5 to 20 steps.
    """
    return multistep(
        sde,
        order,
        prediction,
        slope=variant,
        corrector=order,
        start_order=start_order,
        end_order=end_order,
    )


def sa_solver(
    sde: SDE,
    predictor_order: int = 3,
    corrector_order: int = 3,
    tau: float | Array = 1.0,
    s_min: float = 0.05,
    s_max: float = 1.0,
    start_order: int = 1,
) -> Solver:
    """SA-Solver (Xue et al. 2023, arXiv:2309.05019, alg. 1): stochastic Adams, with kappa = 1 +
    tau^2 and P as in `unipc`:

        x_s = (sigma_s/sigma_t) e^{-tau^2 h} x_t
              + sigma_s int kappa e^{lambda - tau^2 (lambda_s - lambda)} P(lambda) dlambda
              + sigma_s sqrt(1 - e^{-2 tau^2 h}) z
        correct  the same with P through D(x_s, s) as well, and the same z

    tau counts for steps from a rho_t in [s_min, s_max]; elsewhere it is 0.

    Orders 1 to 4, one evaluation a step. With noise: weak order 2, strong order 1. Where tau is 0:
    order corrector_order + 1, but 3 at most from the default start; `start_order=3` mends that.
    corrector_order 0 leaves the predictor alone. For 20 to 60 steps, when quality counts for more
    than time.
    """
    return multistep(
        sde,
        predictor_order,
        corrector=corrector_order,
        noise=exponential.tau(tau, s_min, s_max),
        start_order=start_order,
    )
