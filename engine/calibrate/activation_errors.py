"""How much quantizing a layer's inputs changes them, per width: what allocating activation bits needs to know."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from torch import Tensor

from engine.calibrate.activation_files import ActivationErrors
from engine.calibrate.capture import Call, Captured, check_captured, run_call
from engine.calibrate.importance import uniform_steps
from engine.calibrate.looking import looking
from engine.core.activation import ACTIVATION_BITS, STATIC, TOKEN, Activation
from engine.core.errors import InputError, RecipeError
from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.live.cancel import Cancel, check_cancel
from engine.live.macs import layer_macs
from engine.live.model import Model
from engine.live.tables import ActivationTables
from engine.providers.progress import Progress
from engine.quant.activation import quantize_online, simulate, static_parameters

STEPS = 5


def activation_errors(model: Model, captured: Captured, *, bits: Sequence[int] = ACTIVATION_BITS,
                      tables: ActivationTables | None = None, steps: int | None = None,
                      cancel: Cancel | None = None) -> Iterator[Progress | ActivationErrors]:
    """Replay trajectories and compare every layer's input with its quantized self; ends with `ActivationErrors`.

    Args:
        model: with activations in full precision.
        captured: its trajectories.
        bits: widths.
        tables: None = the online scheme, else the static scheme with these.
        steps: how many, evenly spaced; None = 5, or as many as there are.
        cancel: asked before every call.

    Raises:
        InputError: a width or a number of steps out of range.
        RecipeError: the applied recipe quantizes activations.
        StoreError: trajectories or tables are of another model.
        Cancelled: the caller asked for it.
    """
    check_captured(captured, model)
    wrong = [b for b in bits if b not in ACTIVATION_BITS]
    if wrong or not bits:
        raise InputError(f"Activations take {ACTIVATION_BITS[0]} to {ACTIVATION_BITS[-1]} bits, got "
                         f"{', '.join(map(str, wrong)) or 'none'}.")
    if model.inputs.settings:
        raise RecipeError("Activation errors are taken of full-precision inputs; apply the recipe without activations "
                          "first.")
    if tables is not None:
        model.add_tables(tables)
    total = len(captured.timesteps)
    chosen = uniform_steps(total, min(STEPS, total) if steps is None else steps)
    collector = _Errors(tuple(bits), tables)
    layers = [x for x in model.structure.layers if tables is None or x.name in tables.layers]
    macs = layer_macs(model)
    begun, of = time.perf_counter(), len(captured.parts) * len(chosen)
    with looking(model, layers, inputs=collector.take):
        seen: set[tuple[int, tuple[int, ...]]] = set()
        for call in captured.calls(chosen, model.device):
            check_cancel(cancel)
            collector.call = call
            run_call(model, call)
            seen.add((call.step, call.images))
            yield Progress("activation errors", len(seen), of,
                           (time.perf_counter() - begun) / len(seen) * (of - len(seen)))
    found = collector.joint(model.structure)
    template = Activation(max(bits))
    settings = {n: template if tables is None else tables.setting(n, max(bits)) for n in found}
    about = {**captured.about, "profiled": str(len(chosen)), "tables": tables.id if tables else ""}
    yield ActivationErrors(model.structure.identity, STATIC if tables else TOKEN, found, macs, settings, about)


class _Errors:
    """Sums of squared errors and of squares, per layer and width."""

    def __init__(self, bits: tuple[int, ...], tables: ActivationTables | None) -> None:
        self.call: Call | None = None
        self._bits, self._tables = bits, tables
        self._sums: dict[str, list[float]] = {}
        self._power: dict[str, float] = {}

    def take(self, layer: Layer, x: Tensor) -> None:
        wide = x.float()
        self._power[layer.name] = self._power.get(layer.name, 0.0) + float(wide.square().sum())
        sums = self._sums.setdefault(layer.name, [0.0] * len(self._bits))
        for index, bits in enumerate(self._bits):
            sums[index] += float((self._quantized(layer, wide, bits) - wide).square().sum())

    def _quantized(self, layer: Layer, x: Tensor, bits: int) -> Tensor:
        if self._tables is None:
            return quantize_online(x, bits, layer.kind)
        assert self.call is not None
        step, zero = (t.to(x.device) for t in self._tables.table(layer.name, bits).parameters(bits))
        group = self._tables.group(self.call.timestep)
        return simulate(x, *static_parameters(step, zero, group, x, layer.kind), bits)

    def joint(self, structure: Structure) -> dict[str, dict[str, float]]:
        """Per choice, tied copies summed; an input that is always zero has no error."""
        found: dict[str, dict[str, float]] = {}
        for choice in structure.choices:
            group = [x.name for x in structure.layers if x.choice == choice.name and x.name in self._power]
            if group:
                power = sum(self._power[n] for n in group)
                found[choice.name] = {
                    str(b): sum(self._sums[n][i] for n in group) / power if power else 0.0
                    for i, b in enumerate(self._bits)
                }
        return found
