"""A few hundred single denoiser inputs drawn from captured trajectories, cut out once and replayed for layer inputs.

Learning needs hundreds of inputs of every layer, not thousands. Rows are drawn evenly over the sampling steps, both
guidance halves included; those of some pictures are held out, whole pictures, so that what judges was never seen. Calls
are cut down to their drawn rows where the denoiser treats rows alone, which is tried before it is relied on.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from engine.calibrate.capture import Call, Captured, check_captured
from engine.calibrate.looking import first_tensor
from engine.core.errors import InputError, ModelError
from engine.core.seeds import derive
from engine.live.arithmetic import exact_arithmetic
from engine.live.cancel import Cancel, check_cancel
from engine.live.model import Model

TOLERANCE = 1e-3  # of the largest output: far above rounding, far below what another input would give


@dataclass(frozen=True, slots=True)
class RowsPlan:
    """Which rows.

    Attributes:
        count: how many, all steps together (fewer where fewer were captured).
        held: share of the pictures that are held out.
        seed: of the draw.

    Raises:
        InputError: a number out of range.
    """

    count: int = 512
    held: float = 0.125
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.count <= 1_000_000 or not 0 < self.held < 1:
            raise InputError(f"Calibration takes 2 to 1,000,000 inputs and holds out a share above 0 and below 1, got "
                             f"{self.count} and {self.held}.")


@dataclass(frozen=True, eq=False)
class Drawn:
    """One call with the rows that were drawn from it.

    Attributes:
        call: cut down to them, or the whole call.
        pick: which of the call's rows they are; None where it is cut down.
    """

    call: Call
    pick: Tensor | None


@dataclass(frozen=True, eq=False)
class Rows:
    """Drawn rows in the order in which replaying gives them.

    Attributes:
        model: identity of the model.
        drawn: the calls.
        steps: sampling step of each row, int64 [N].
        timesteps: what the denoiser was called with, float64 [N].
        held: which are held out, bool [N].
        judge: which of those judge what was learned, bool [N]; the others say when learning stops. The same ones where
            a single picture is held out.
        id: 12 hex digits over what determines them.
    """

    model: str
    drawn: tuple[Drawn, ...]
    steps: Tensor
    timesteps: Tensor
    held: Tensor
    judge: Tensor
    id: str

    @property
    def count(self) -> int:
        """N."""
        return len(self.steps)

    @property
    def rising(self) -> bool:
        """Whether timesteps rise towards the picture, as Lumina2 counts; elsewhere they fall."""
        return bool(self.timesteps[self.steps.argmax()] > self.timesteps[self.steps.argmin()])


def draw_rows(model: Model, captured: Captured, plan: RowsPlan | None = None, *, cancel: Cancel | None = None) -> Rows:
    """Draw rows and cut them out of their calls.

    Raises:
        InputError: all trajectories are of one picture, so nothing can be held out; or the model computes in half
            precision, whose rounding is as large as what is to be learned.
        StoreError: the trajectories are of another model.
    """
    plan = plan or RowsPlan()
    check_captured(captured, model)
    if model.dtype != "float32":
        raise InputError(f"Calibration learns from errors smaller than the rounding of {model.dtype}; open the model "
                         f"in float32 (the recipe it makes can be applied in {model.dtype}).")
    if captured.images < 2:
        raise InputError("Calibration holds out whole pictures and learns from others; capture at least two.")
    ranked = sorted(range(captured.images), key=lambda i: derive("held out", plan.seed, i))
    apart = ranked[:max(1, round(plan.held * captured.images))]
    judges = set(apart[:(len(apart) + 1) // 2])
    chosen = _chosen(captured, plan)
    drawn: list[Drawn] = []
    steps, times, held, judge = [], [], [], []
    trusted: bool | None = None
    for number, call in enumerate(captured.calls(device=model.device)):
        check_cancel(cancel)
        rows = chosen.get(number)
        if not rows:
            continue
        index = torch.tensor(rows, device=model.device)
        cut = replace(call, args=_cut(call.args, call.rows, index), kwargs=_cut(call.kwargs, call.rows, index),
                      rows=len(rows))
        if trusted is None:
            trusted = _same(model, call, cut, index)
        drawn.append(Drawn(cut, None) if trusted else Drawn(call, index))
        pictures = [call.images[r % len(call.images)] for r in rows]
        steps += [call.step] * len(rows)
        times += [call.timestep] * len(rows)
        held += [p in apart for p in pictures]
        judge += [p in judges for p in pictures]
    about = [captured.model, sorted(captured.about.items()), repr(plan)]
    identity = hashlib.sha256(repr(about).encode()).hexdigest()[:12]
    return Rows(captured.model, tuple(drawn), torch.tensor(steps), torch.tensor(times, dtype=torch.float64),
                torch.tensor(held), torch.tensor(judge), identity)


def run(model: Model, rows: Rows, *, cancel: Cancel | None = None) -> Iterator[Drawn]:
    """Run the denoiser on the drawn calls; yields each after it ran. Hooks are the caller's, and may end a call early
    by raising `Enough`."""
    for one in rows.drawn:
        check_cancel(cancel)
        with torch.no_grad(), exact_arithmetic(), contextlib.suppress(Enough):
            model.denoiser(*one.call.args, **one.call.kwargs)
        yield one


class Enough(Exception):
    """Raised in a hook when everything wanted of a call has been seen."""


def picked(x: Tensor, one: Drawn) -> Tensor:
    """The drawn rows of a tensor that a call gave.

    A tensor with k rows per sample gives the first of each, one that all samples share is repeated.

    Raises:
        ModelError: its rows are no multiple of the samples.
    """
    rows = one.call.rows
    if len(x) == 1 and rows > 1:
        x = x.expand(rows, *x.shape[1:])
    if len(x) % rows:
        raise ModelError(f"A layer is given {len(x)} rows for {rows} samples; its inputs cannot be told apart by "
                         f"sample, so leave it out of the calibration.")
    x = x.reshape(rows, -1, *x.shape[1:])[:, 0]
    return x if one.pick is None else x[one.pick]


def mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """A nested value with its tensors replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {k: mapped(v, function) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(v, function) for v in value)
    return value


def _chosen(captured: Captured, plan: RowsPlan) -> dict[int, list[int]]:
    """Number of the call -> rows of it, evenly over the steps."""
    candidates: dict[int, list[tuple[int, int]]] = {}
    for number, call in enumerate(captured.calls()):
        candidates.setdefault(call.step, []).extend((number, r) for r in range(call.rows))
    steps = sorted(candidates)
    found: dict[int, list[int]] = {}
    for place, step in enumerate(steps):
        wanted = plan.count * (place + 1) // len(steps) - plan.count * place // len(steps)
        ranked = sorted(candidates[step], key=lambda c: derive("row", plan.seed, *c))
        for number, row in sorted(ranked[:wanted]):
            found.setdefault(number, []).append(row)
    return found


def _cut(value: Any, rows: int, index: Tensor) -> Any:
    return mapped(value, lambda t: t[index] if t.ndim and len(t) == rows else t)


@torch.no_grad()
def _same(model: Model, call: Call, cut: Call, index: Tensor) -> bool:
    """Whether the cut call gives what the whole one gives on those rows."""
    try:
        with exact_arithmetic():
            whole = first_tensor(_output(model.denoiser(*call.args, **call.kwargs)))[index]
            part = first_tensor(_output(model.denoiser(*cut.args, **cut.kwargs)))
    except (RuntimeError, IndexError, ValueError):
        return False
    return whole.shape == part.shape and bool((whole - part).abs().max() <= TOLERANCE * whole.abs().max())


def _output(result: Any) -> Sequence[Any] | Tensor:
    return result if isinstance(result, (Tensor, tuple, list)) else tuple(result.values())
