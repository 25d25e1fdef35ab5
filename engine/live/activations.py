"""Input quantization that is really on: hooks before layers, switched by difference, off without a trace.

A module has a hook only while one of its layers is quantized, so "off" is the untouched module. Halves of a split
layer quantize their own channels. Static tables choose their timestep group by the denoiser's own argument, read
once per call into a context that all hooks share; a batch of several timesteps is served sample by sample.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.core.activation import STATIC, Activation
from engine.core.errors import ModelError, RecipeError
from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.live.tables import ActivationTables
from engine.models.inputs import TIME_NAMES
from engine.quant.activation import CHANNEL_AXIS, quantize_online, simulate, static_parameters

Quantize = Callable[[Tensor], Tensor]


class TimeContext:
    """The timestep of the denoiser call that is running.

    Attributes:
        timestep: float, or float64 [B] where the samples of a batch differ; None outside of a call.
    """

    def __init__(self) -> None:
        self.timestep: float | Tensor | None = None
        self._groups: dict[str, int | Tensor] = {}

    def enter(self, value: Any) -> None:
        """Note the argument of a call: a number, or a tensor with one element or one per sample."""
        self._groups.clear()
        if not isinstance(value, Tensor):
            self.timestep = float(value)
            return
        times = value.detach().double().reshape(-1)
        self.timestep = float(times[0]) if bool((times == times[0]).all()) else times

    def leave(self) -> None:
        """The call is over."""
        self.timestep = None
        self._groups.clear()

    def group(self, tables: ActivationTables) -> int | Tensor:
        """The group of this call, or int64 [B], one per sample; found once per call.

        Raises:
            ModelError: no call of the denoiser is running.
            InputError: the timestep is outside of what was calibrated.
        """
        if tables.id not in self._groups:
            if self.timestep is None:
                raise ModelError("A layer with static activation tables ran outside of its denoiser, so its timestep "
                                 "is not known; call the denoiser, or use the online scheme.")
            if isinstance(self.timestep, Tensor):
                found = [tables.group(t) for t in self.timestep.tolist()]
                self._groups[tables.id] = torch.tensor(found, device=self.timestep.device)
            else:
                self._groups[tables.id] = tables.group(self.timestep)
        return self._groups[tables.id]


@dataclass(frozen=True, slots=True)
class _Part:
    """What happens to the channels start:stop of a module's input; the whole input where `whole`."""

    start: int
    stop: int
    whole: bool
    axis: int
    quantize: Quantize


class InputQuantizers:
    """The input quantizers of a denoiser.

    Attributes:
        settings: choice name -> what is on now.
        context: the timestep of the running call.
    """

    def __init__(self, denoiser: nn.Module, structure: Structure) -> None:
        self._denoiser, self._structure = denoiser, structure
        self.settings: dict[str, Activation] = {}
        self.context = TimeContext()
        self._parts: dict[str, dict[str, _Part]] = {}
        self._handles: dict[str, Any] = {}
        self._clock: list[Any] = []

    def switch(self, wanted: Mapping[str, Activation], tables: Mapping[str, ActivationTables]) -> int:
        """Make these settings the ones that are on. Returns how many choices changed.

        Args:
            wanted: choice name -> setting; every other choice is switched off.
            tables: id -> tables, for every id that the settings name; see `needed_tables`.
        """
        changed = [n for n in {**self.settings, **wanted} if self.settings.get(n) != wanted.get(n)]
        for layer in self._structure.layers:
            if layer.choice in changed:
                self._set(layer, wanted.get(layer.choice), tables)
        self.settings = dict(wanted)
        self._watch_time(any(a.scheme == STATIC for a in wanted.values()))
        return len(changed)

    def close(self) -> None:
        """Everything off."""
        self.switch({}, {})

    def _set(self, layer: Layer, setting: Activation | None, tables: Mapping[str, ActivationTables]) -> None:
        for path in layer.modules or (layer.module,):
            parts = self._parts.setdefault(path, {})
            parts.pop(layer.name, None)
            module = self._denoiser.get_submodule(path)
            if setting is not None:
                parts[layer.name] = self._part(layer, module, setting, tables)
            if parts and path not in self._handles:
                hook = _hook(parts)
                self._handles[path] = module.register_forward_pre_hook(hook, with_kwargs=True)
            elif not parts and path in self._handles:
                self._handles.pop(path).remove()

    def _part(self, layer: Layer, module: nn.Module, setting: Activation,
              tables: Mapping[str, ActivationTables]) -> _Part:
        if setting.scheme == STATIC:
            quantize = self._static(layer, module, setting, tables[setting.tables])
        else:
            bits, kind = setting.bits, layer.kind

            def quantize(x: Tensor) -> Tensor:
                return quantize_online(x, bits, kind)

        weight: Any = module.weight
        whole = layer.stop - layer.start == weight.shape[1]
        return _Part(layer.start, layer.stop, whole, CHANNEL_AXIS[layer.kind], quantize)

    def _static(self, layer: Layer, module: nn.Module, setting: Activation, tables: ActivationTables) -> Quantize:
        weight: Any = module.weight
        step, zero = (t.to(weight.device) for t in tables.table(layer.name, setting.bits).parameters(setting.bits))
        bits, kind, context = setting.bits, layer.kind, self.context

        def quantize(x: Tensor) -> Tensor:
            at = (t.to(x.device) for t in (step, zero))  # offloaded, the weight waits elsewhere than its input comes
            return simulate(x, *static_parameters(*at, context.group(tables), x, kind), bits)

        return quantize

    def _watch_time(self, wanted: bool) -> None:
        if wanted and not self._clock:
            read = argument_reader(self._denoiser, TIME_NAMES)
            self._clock = [
                self._denoiser.register_forward_pre_hook(
                    lambda _, args, kwargs: self.context.enter(read(args, kwargs)), with_kwargs=True),
                self._denoiser.register_forward_hook(lambda *_: self.context.leave(), always_call=True),
            ]
        elif not wanted:
            while self._clock:
                self._clock.pop().remove()


def needed_tables(settings: Mapping[str, Activation], structure: Structure,
                  find: Callable[[str], ActivationTables]) -> dict[str, ActivationTables]:
    """id -> tables for every static setting, each checked against its layers.

    Args:
        settings: choice name -> setting.
        structure: of the model.
        find: gives tables by id.

    Raises:
        RecipeError: tables that are missing, hold nothing for a layer, or are not what the recipe says of them.
        StoreError: tables that are damaged or of another model.
    """
    found: dict[str, ActivationTables] = {}
    for layer in structure.layers:
        setting = settings.get(layer.choice)
        if setting is None or setting.scheme != STATIC:
            continue
        if setting.tables not in found:
            found[setting.tables] = find(setting.tables)
        if found[setting.tables].setting(layer.name, setting.bits) != setting:
            raise RecipeError(f"The recipe says of the activation tables of {layer.name} what they are not (groups, "
                              f"scales or shifts differ); take the setting from the tables.")
    return found


def _hook(parts: Mapping[str, _Part]) -> Callable[..., Any]:
    """A pre-hook that replaces a module's input; `parts` may change while it is registered."""

    def replace(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = "" if args else next((k for k in ("input", "hidden_states", "x") if k in kwargs), "")
        x = args[0] if args else kwargs[name]
        for part in parts.values():
            x = _quantized(x, part)
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, name: x})

    return replace


def _quantized(x: Tensor, part: _Part) -> Tensor:
    if part.whole:
        return part.quantize(x)
    inner = x.narrow(part.axis, part.start, part.stop - part.start)
    before = x.narrow(part.axis, 0, part.start)
    after = x.narrow(part.axis, part.stop, x.shape[part.axis] - part.stop)
    return torch.cat([before, part.quantize(inner), after], dim=part.axis)


def argument_reader(denoiser: nn.Module, names: Sequence[str]) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    """Finds an argument of a denoiser's calls, by its signature: called with (args, kwargs), gives its value.

    Args:
        denoiser: the module.
        names: what the argument may be called, such as `engine.models.inputs.TIME_NAMES`.

    Raises:
        ModelError: it takes none of them.
    """
    parameters = list(inspect.signature(denoiser.forward).parameters)
    name = next((n for n in names if n in parameters), None)
    if name is None:
        raise ModelError(f"{type(denoiser).__name__} takes no {names[0]}, so its calls cannot be followed; use the "
                         f"online scheme.")
    place = parameters.index(name)

    def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return kwargs[name] if name in kwargs else args[place]

    return read
