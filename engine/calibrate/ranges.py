"""Ranges of layer inputs per sampling step and channel, streamed over replayed trajectories, and the tables they make.

Minima and maxima, or a percentile taken per call and averaged over the calls of a step. Weights are as the applied
recipe has them, so ranges can be taken with quantized weights, as DMQ takes them; inputs must not be quantized.

DMQ's released code averages minima and maxima over batches (an EMA with momentum 0.95). Not here: an EMA depends on the
order of the batches, forgets the pictures seen first, clips by an amount nobody chose, and as released carries the
former timestep group's range into the next. Minimum and maximum of a step do none of that; who wants to clip says by
how much, with a percentile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.calibrate.capture import Captured, replay
from engine.calibrate.looking import looking
from engine.core.errors import InputError, RecipeError
from engine.core.layer import Layer
from engine.live.cancel import Cancel
from engine.live.model import Model
from engine.live.tables import ActivationTables, merged_groups
from engine.providers.progress import Progress
from engine.quant.activation import CHANNEL_AXIS, StaticTable

GROUPS = 20
MAX_SAMPLES = 1 << 15  # values a percentile is taken of, per call; evenly spaced where there are more


@dataclass(frozen=True, eq=False)
class Ranges:
    """What layers were given.

    Attributes:
        model: identity of the model.
        timesteps: per step, as captured.
        low, high: layer name -> float32 [T, C], least and largest value per step and input channel.
        low_cut, high_cut: layer name -> float32 [T], mean percentile of the whole tensor; empty without a percentile.
        missing: layers that were never executed.
        about: what determines the numbers.
    """

    model: str
    timesteps: tuple[float, ...]
    low: Mapping[str, Tensor]
    high: Mapping[str, Tensor]
    low_cut: Mapping[str, Tensor] = field(default_factory=dict)
    high_cut: Mapping[str, Tensor] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)

    def peaks(self, layer: str) -> Tensor:
        """Largest magnitude per step and channel, [T, C]."""
        return torch.maximum(self.low[layer].abs(), self.high[layer].abs())

    def outlier_scores(self) -> dict[str, float]:
        """Per layer the spread of its channels: largest peak / median peak, mean over steps; 1 = all alike, 0 = dead.

        DMQ's criterion for where channels need scales or shifts of their own. Channels that are always zero are not
        counted.
        """
        found = {}
        for name in self.low:
            peaks = self.peaks(name).double()
            rows = [row[row > 0] for row in peaks]
            spreads = [float(row.max() / row.median()) for row in rows if len(row)]
            found[name] = sum(spreads) / len(spreads) if spreads else 0.0
        return found

    def dead_channels(self) -> dict[str, int]:
        """Per layer how many input channels are zero in every step; only layers that have some."""
        counts = {name: int((self.peaks(name).amax(0) == 0).sum()) for name in self.low}
        return {name: n for name, n in counts.items() if n}

    def tables(self, groups: int = GROUPS, taus: Mapping[str, Tensor] | None = None) -> ActivationTables:
        """Static tables with ranges per group of consecutive timesteps (as many as there are steps, at most).

        Args:
            groups: G.
            taus: layer name -> scale per input channel [C]; the ranges are then those of x / tau (without percentile).

        Raises:
            InputError: no groups, or scales together with a percentile.
        """
        if taus and self.low_cut:
            raise InputError("Ranges of scaled layers are minima and maxima; take the ranges without a percentile.")
        order = sorted(range(len(self.timesteps)), key=lambda i: -self.timesteps[i])
        times = sorted({self.timesteps[i] for i in order}, reverse=True)
        group_of = dict(zip(times, merged_groups(times, groups), strict=True))
        members: list[list[int]] = [[] for _ in range(max(group_of.values()) + 1)]
        for i in order:
            members[group_of[self.timesteps[i]]].append(i)
        layers = {name: self._table(name, members, (taus or {}).get(name)) for name in self.low}
        about = {**self.about, "groups": str(len(members))}
        return ActivationTables(self.model, tuple(times), tuple(group_of[t] for t in times), layers, about)

    def _table(self, name: str, members: Sequence[Sequence[int]], tau: Tensor | None) -> StaticTable:
        if name in self.low_cut:
            low, high = self.low_cut[name], self.high_cut[name]
        else:
            scale = 1.0 if tau is None else tau.float()
            low, high = (self.low[name] / scale).amin(1), (self.high[name] / scale).amax(1)
        return StaticTable(torch.stack([low[list(m)].min() for m in members]),
                           torch.stack([high[list(m)].max() for m in members]), tau)


def collect_ranges(model: Model, captured: Captured, *, layers: Sequence[str] | None = None, percentile: float = 100.0,
                   cancel: Cancel | None = None) -> Iterator[Progress | Ranges]:
    """Replay trajectories and note the ranges of layer inputs; ends with `Ranges`.

    Args:
        model: with the weights the ranges are wanted for.
        captured: its trajectories.
        layers: names (halves and tied copies each their own); None = all.
        percentile: 50 to 100; 100 is minimum and maximum, 99.9 cuts a thousandth at either end.
        cancel: asked before every call.

    Raises:
        InputError: a percentile out of range, or unknown layers.
        RecipeError: the applied recipe quantizes activations.
        StoreError: the trajectories are of another model.
        Cancelled: the caller asked for it.
    """
    if not 50 < percentile <= 100:
        raise InputError(f"A percentile is above 50 and at most 100, got {percentile}.")
    if model.inputs.settings:
        raise RecipeError("Ranges are taken with activations in full precision; apply the recipe without them first.")
    known = {layer.name: layer for layer in model.structure.layers}
    unknown = [name for name in layers or () if name not in known]
    if unknown:
        raise InputError(f"{model.structure.model} has no layer called {unknown[0][:80]!r}.")
    watched = [known[name] for name in (known if layers is None else layers)]
    stream = _Stream(len(captured.timesteps), percentile)
    begun, total = time.perf_counter(), len(captured.parts) * len(captured.timesteps)
    with looking(model, watched, inputs=stream.take):
        # one call is known only after it ran, so what was seen is kept until its step is told
        for call in replay(model, captured, cancel=cancel):
            stream.settle(call.step)
            done = min(stream.settled, total)
            yield Progress("ranges", done, total, (time.perf_counter() - begun) / done * (total - done))
    yield stream.ranges(captured, tuple(layer.name for layer in watched), {
        **captured.about, "percentile": f"{percentile:g}", "weights": model.recipe.hash})


class _Stream:
    """Extremes per layer, step and channel, and sums of percentiles."""

    def __init__(self, steps: int, percentile: float) -> None:
        self._steps, self._percentile = steps, percentile
        self._seen: dict[str, list[tuple[Tensor, Tensor, float, float]]] = {}
        self._low: dict[str, Tensor] = {}
        self._high: dict[str, Tensor] = {}
        self._cuts: dict[str, Tensor] = {}
        self._done: set[tuple[int, int]] = set()
        self._last, self.settled = -1, 0

    def take(self, layer: Layer, x: Tensor) -> None:
        axis = CHANNEL_AXIS[layer.kind] % x.ndim
        rest = [i for i in range(x.ndim) if i != axis]
        low, high = (0.0, 0.0) if self._percentile == 100 else self._cut(x)
        extremes = x.amin(rest).float().cpu(), x.amax(rest).float().cpu()
        self._seen.setdefault(layer.name, []).append((*extremes, low, high))

    def _cut(self, x: Tensor) -> tuple[float, float]:
        flat = x.flatten()
        flat = flat[:: max(1, len(flat) // MAX_SAMPLES)].float().sort().values
        place = self._percentile / 100 * (len(flat) - 1)
        return float(flat[round(len(flat) - 1 - place)]), float(flat[round(place)])

    def settle(self, step: int) -> None:
        """What was seen since the last time belongs to this step."""
        for name, rows in self._seen.items():
            for low, high, low_cut, high_cut in rows:
                if name not in self._low:
                    self._low[name] = torch.full((self._steps, len(low)), torch.inf)
                    self._high[name] = -self._low[name]
                    self._cuts[name] = torch.zeros(self._steps, 3, dtype=torch.float64)
                self._low[name][step] = torch.minimum(self._low[name][step], low)
                self._high[name][step] = torch.maximum(self._high[name][step], high)
                self._cuts[name][step] += torch.tensor([low_cut, high_cut, 1.0], dtype=torch.float64)
        self._seen.clear()
        self.settled += step != self._last
        self._last = step

    def ranges(self, captured: Captured, wanted: tuple[str, ...], about: Mapping[str, str]) -> Ranges:
        executed = [name for name in wanted if name in self._low and bool(torch.isfinite(self._low[name]).all())]
        cuts = {} if self._percentile == 100 else {n: self._cuts[n][:, :2] / self._cuts[n][:, 2:] for n in executed}
        return Ranges(
            captured.model, captured.timesteps, {n: self._low[n] for n in executed},
            {n: self._high[n] for n in executed}, {n: c[:, 0].float() for n, c in cuts.items()},
            {n: c[:, 1].float() for n, c in cuts.items()}, tuple(n for n in wanted if n not in set(executed)), about)
