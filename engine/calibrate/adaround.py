"""Block reconstruction: the rounding of all weights of a block learned on the block's own output (AdaRound in BRECQ).

BRECQ (Li et al., ICLR 2021) as DMQ uses it: inputs from the network whose earlier blocks are already quantized, targets
of the full-precision network, activations not quantized. Adam at 1e-3; loss = squared error (summed over channels, mean
over the rest) + 0.01 sum(1 - |2h - 1|^beta), beta from 20 to 2 after a first fifth without it. Published: 20,000
iterations; shorter runs take a proportionally larger rate, at most 1e-2. Whether learning was worth it is decided on
held-out inputs: where the rounded block is no better than rounding to nearest, nearest it stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.core.errors import InputError
from engine.core.seeds import derive
from engine.live.cancel import Cancel, check_cancel
from engine.quant.qweight import QuantizedWeight
from engine.quant.rounding import Choice, beta_at, changed, first_alpha, hardened, pulled_weight

PUBLISHED_ITERATIONS = 20_000
RATE, MAX_RATE = 1e-3, 1e-2
CHUNK = 64  # inputs whose held-out error is computed together

Weights = Mapping[str, Tensor]  # layer name -> dense weight
Outputs = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class RoundingPlan:
    """How rounding is learned.

    Attributes:
        iterations, batch: so many steps of so many inputs.
        weight: of the regulariser.
        seed: of the mini-batches.

    Raises:
        InputError: a number out of range.
    """

    iterations: int = 1500
    batch: int = 16
    weight: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.iterations <= 100_000 or not 1 <= self.batch <= 4096:
            raise InputError(f"Learning to round takes 1 to 100,000 iterations of 1 to 4,096 inputs, got "
                             f"{self.iterations} of {self.batch}.")

    @property
    def rate(self) -> float:
        """Adam's: as published for published lengths, larger for shorter runs."""
        return min(MAX_RATE, max(RATE, RATE * PUBLISHED_ITERATIONS / self.iterations))


@dataclass(frozen=True, eq=False)
class BlockProblem:
    """One block (or single layer) alone.

    Attributes:
        name: module path.
        choices: layer name -> the two levels of each of its weights.
        forward: (layer name -> dense weight, rows) -> outputs of the block on those inputs.
        targets: rows -> outputs of the full-precision network there.
        held: which inputs are held out, bool [N].
        kind: of the layer that makes the outputs.
    """

    name: str
    choices: Mapping[str, Choice]
    forward: Callable[[Weights, Tensor], Outputs]
    targets: Callable[[Tensor], Outputs]
    held: Tensor
    kind: str = "linear"

    def __post_init__(self) -> None:
        if not bool(self.held.any()) or bool(self.held.all()):
            raise InputError(f"{self.name} has {len(self.held)} captured inputs, {int(self.held.sum())} of them held "
                             f"out; rounding needs some to learn from and some to be judged by.")

    @torch.no_grad()
    def held_out_loss(self, weights: Mapping[str, QuantizedWeight]) -> float:
        """Squared error on the held-out inputs, relative to the power of the targets."""
        dense = {name: weight.dequantize() for name, weight in weights.items()}
        error = power = 0.0
        for rows in self.held.nonzero()[:, 0].split(CHUNK):
            for found, wanted in zip(self.forward(dense, rows), self.targets(rows), strict=True):
                error += float((found - wanted).double().square().sum())
                power += float(wanted.double().square().sum())
        return error / power if power else error


@dataclass(frozen=True, eq=False)
class Rounding:
    """The result for one block.

    Attributes:
        block: its name.
        weights: layer name -> weight, learned or nearest.
        before, after: held-out error of rounding to nearest and of learned rounding.
        moved: share of the weights that left their nearest level.
        iterations, seconds: spent.
        accepted: whether the weights are the learned ones.
    """

    block: str
    weights: Mapping[str, QuantizedWeight]
    before: float
    after: float
    moved: float
    iterations: int
    seconds: float
    accepted: bool


def rounding_of(problem: BlockProblem, plan: RoundingPlan, cancel: Cancel | None = None) -> Rounding:
    """Learn the rounding of a block and test it on held-out inputs.

    Raises:
        Cancelled: the caller asked for it.
    """
    start = time.perf_counter()
    nearest = {name: choice.nearest for name, choice in problem.choices.items()}
    before = problem.held_out_loss(nearest)
    alphas = {name: first_alpha(choice).requires_grad_() for name, choice in problem.choices.items()}
    gaps = {name: choice.high - choice.low for name, choice in problem.choices.items()}
    adam = torch.optim.Adam(list(alphas.values()), plan.rate, fused=True)
    teaching = (~problem.held).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(derive("adaround", plan.seed, problem.name))
    for i in range(plan.iterations):
        check_cancel(cancel)
        rows = teaching[torch.randint(len(teaching), (plan.batch,), generator=generator)]
        adam.zero_grad()
        beta = beta_at(i, plan.iterations)
        soft = {name: pulled_weight(choice, gaps[name], alphas[name], beta, plan.weight)
                for name, choice in problem.choices.items()}
        _error(problem, soft, rows).backward()
        adam.step()
    learned = {name: hardened(choice, alphas[name].detach()) for name, choice in problem.choices.items()}
    after = problem.held_out_loss(learned)
    count = sum(choice.low.numel() for choice in problem.choices.values())
    moved = sum(changed(choice, learned[name]) * choice.low.numel() for name, choice in problem.choices.items()) / count
    accepted = after < before
    return Rounding(problem.name, learned if accepted else nearest, before, after, moved, plan.iterations,
                    time.perf_counter() - start, accepted)


def _error(problem: BlockProblem, weights: Weights, rows: Tensor) -> Tensor:
    found, wanted = problem.forward(weights, rows), problem.targets(rows)
    return torch.stack([(f - w).square().sum(_channels(f, problem.kind)).mean()
                        for f, w in zip(found, wanted, strict=True)]).sum()


def _channels(output: Tensor, kind: str) -> int:
    """The axis of the channels: second in images [B, C, H, W] and signals [B, C, T], last in tokens [B, T, C].

    Only of three dimensions the output layer tells: a block of tokens may end in a 2-D convolution, one of images in a
    linear projection, and both reshape what that gives.
    """
    return 1 if output.ndim > 3 or (output.ndim == 3 and kind == "conv1d") else -1
