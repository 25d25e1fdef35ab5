"""Learned equivalent scaling of one layer: tau = exp(a) by gradient on the layer's own output error.

DMQ (Lee et al., ICCV 2025): minimize |f(X; W) - f(Q_a(X / tau); Q_w(tau W))|^2 with ranges taken anew from every
mini-batch, rounding passed straight through, samples weighed by their timestep, Adam with a cosine to 0. Published:
6,000 iterations at 1e-3; shorter runs take a proportionally larger rate, so that a can travel as far. What decides is
the error on held-out inputs, unweighted and with the quantizers that will be used. One half of them says when learning
stops (the error no longer falls) and which a is kept; the other half, which had no part in that, judges it: where the
kept a is no better than no scaling there, there is none.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.calibrate.problem import LayerProblem
from engine.calibrate.weighting import BINS, DECAY, RULES, SHARPNESS, TimestepWeights, bins_of
from engine.core.errors import InputError
from engine.core.seeds import derive
from engine.live.cancel import Cancel, check_cancel
from engine.quant.scaling import LOG_LIMIT, fold, per_input, smooth_tau, stored_tau, tau_of
from engine.quant.straight import online, weight_rows, whole_tensor

LEARNED, HEURISTIC = "les", "smooth"
PUBLISHED_ITERATIONS = 6000
REACH = 6.0  # rate times iterations, as published


@dataclass(frozen=True, slots=True)
class LesPlan:
    """How a scaling is learned.

    Attributes:
        method: "les", or "smooth", the heuristic control without learning.
        iterations, batch: at most so many steps of so many inputs.
        weighting: of the timesteps, one of `engine.calibrate.weighting.RULES`.
        checks: how often the held-out error is taken in a whole run.
        patience: share of the iterations without a lower held-out error after which learning stops.
        seed: of the mini-batches.

    Raises:
        InputError: a number out of range, or an unknown name.
    """

    method: str = LEARNED
    iterations: int = 600
    batch: int = 16
    weighting: str = RULES[0]
    decay: float = DECAY
    sharpness: float = SHARPNESS
    checks: int = 30
    patience: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in (LEARNED, HEURISTIC) or self.weighting not in RULES:
            raise InputError(f"A scaling is {LEARNED} or {HEURISTIC}, weighted {', '.join(RULES)}; got "
                             f"{self.method[:20]!r}, {self.weighting[:20]!r}.")
        if not 1 <= self.iterations <= 100_000 or not 1 <= self.batch <= 4096 or self.checks < 1:
            raise InputError(f"Learning a scaling takes 1 to 100,000 iterations of 1 to 4,096 inputs, got "
                             f"{self.iterations} of {self.batch}.")


@dataclass(frozen=True, eq=False)
class Scaling:
    """The result for one layer.

    Attributes:
        layer: its name.
        tau: as stored, float32 [C]; None where scaling does not help.
        before, after: error without and with the scaling on the held-out inputs that judge, relative to the output's
            power.
        iterations: taken.
        stopped: whether it ended early.
        curve: (iteration, error on the held-out inputs that say when to stop).
        seconds: spent.
        reason: why there is no tau, or "".
    """

    layer: str
    tau: Tensor | None
    before: float
    after: float
    iterations: int = 0
    stopped: bool = False
    curve: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the layer is scaled."""
        return self.tau is not None


def scaling_of(problem: LayerProblem, plan: LesPlan, cancel: Cancel | None = None) -> Scaling:
    """Find a layer's scaling and test it on held-out inputs.

    Raises:
        Cancelled: the caller asked for it.
    """
    start = time.perf_counter()
    before = problem.deployed_loss(None, problem.judging)
    if before == 0:
        return Scaling(problem.layer.name, None, 0.0, 0.0, reason="nothing is lost without it")
    if plan.method == HEURISTIC:
        tau = stored_tau(smooth_tau(*problem.peaks()), problem.precision_bits)
        found, steps, stopped = (), 0, False
    else:
        tau, found, steps, stopped = _learned(problem, plan, cancel)
    after = problem.deployed_loss(tau, problem.judging)
    seconds = time.perf_counter() - start
    # the heuristic is a control: it is taken as it is, however much it harms
    accepted = after < before or plan.method == HEURISTIC
    reason = "" if accepted else "the held-out error did not fall"
    return Scaling(problem.layer.name, tau if accepted else None, before, after, steps, stopped, found, seconds, reason)


def _learned(problem: LayerProblem, plan: LesPlan,
             cancel: Cancel | None) -> tuple[Tensor, tuple[tuple[int, float], ...], int, bool]:
    """(tau, curve, iterations, stopped early); all ones where no scaling was better than none."""
    teaching = (~problem.held).nonzero()[:, 0]
    bins = bins_of(problem.timesteps, rising=problem.rising)
    weights = TimestepWeights(plan.weighting, BINS, plan.decay, plan.sharpness)
    generator = torch.Generator().manual_seed(derive("les", plan.seed, problem.layer.name))
    a = torch.zeros(problem.channels, requires_grad=True)
    adam = torch.optim.Adam([a], REACH / max(plan.iterations, REACH))
    rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda i: 0.5 * (1 + math.cos(math.pi * i / plan.iterations)))
    every = max(1, plan.iterations // plan.checks)
    best, kept, last_fall = problem.deployed_loss(None, problem.stopping), torch.ones(problem.channels), 0
    curve = [(0, best)]
    for i in range(1, plan.iterations + 1):
        check_cancel(cancel)
        rows = teaching[torch.randint(len(teaching), (plan.batch,), generator=generator)]
        adam.zero_grad()
        _loss(problem, a, rows, bins, weights).backward()
        adam.step()
        rate.step()
        with torch.no_grad():
            a.clamp_(-LOG_LIMIT, LOG_LIMIT)
        if i % every and i < plan.iterations:
            continue
        tau = stored_tau(tau_of(a), problem.precision_bits)
        curve.append((i, problem.deployed_loss(tau, problem.stopping)))
        if curve[-1][1] < best:
            best, kept, last_fall = curve[-1][1], tau, i
        elif i - last_fall >= plan.patience * plan.iterations:
            return kept, tuple(curve), i, i < plan.iterations
    return kept, tuple(curve), plan.iterations, False


def _loss(problem: LayerProblem, a: Tensor, rows: Tensor, bins: Tensor, weights: TimestepWeights) -> Tensor:
    x, tau = problem.inputs[rows], tau_of(a)
    with torch.no_grad():
        wanted = problem.output(x, problem.weight)
    weight = weight_rows(fold(problem.weight, tau), problem.option.bits)
    if problem.divides:
        seen = whole_tensor(x / per_input(tau, x.ndim, problem.axis), problem.bits)
    else:
        # the weights alone are scaled: what they stand for is Q(tau W) / tau
        weight = weight / fold(torch.ones_like(problem.weight), tau)
        seen = online(x, problem.bits, problem.layer.kind) if problem.bits else x
    losses = problem.sample_losses(problem.output(seen, weight), wanted)
    return (weights.weigh(losses.detach(), bins[rows]) * losses).mean()
