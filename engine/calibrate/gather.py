"""Inputs and outputs of layers and blocks on drawn rows, replaying the denoiser as often as memory asks for."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from engine.calibrate.rows import TOLERANCE, Drawn, Enough, Rows, mapped, picked, run
from engine.live.cancel import Cancel
from engine.live.model import Model

BUDGET_BYTES = 1_500_000_000  # inputs held at once


def layer_inputs(model: Model, rows: Rows, modules: Sequence[str], *, budget: int = BUDGET_BYTES,
                 cancel: Cancel | None = None) -> Iterator[tuple[str, Tensor]]:
    """What modules are given (before any quantization), module by module, float32 [N, ...] on the CPU.

    Modules that are never executed are left out. The denoiser is as the applied recipe has it.

    Args:
        model, rows: on what.
        modules: paths, in execution order.
        budget: bytes of inputs held at once; one module is held whatever its size.
        cancel: asked before every call.
    """
    sizes = _sizes(model, rows, modules)
    for group in _grouped({m: sizes[m] * rows.count for m in modules if m in sizes}, budget):
        seen: dict[str, list[Tensor]] = {m: [] for m in group}
        with _Hooks(model, group) as now:
            for one in run(model, rows, cancel=cancel):
                for name in group:
                    seen[name].append(picked(now[name], one).float().cpu())
                now.clear()
        for name in group:
            yield name, torch.cat(seen.pop(name))


@dataclass(frozen=True, eq=False)
class BlockInputs:
    """Arguments of a block on all rows.

    Attributes:
        args, kwargs: with a `Stacked` where a tensor has rows; everything else as the block is always given it.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def call(self, module: nn.Module, parameters: Mapping[str, Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        """The block's outputs on some rows, with these parameters in place of its own.

        Args:
            module: the block.
            parameters: name within the block -> tensor; all its others are taken without gradient.
            rows: int64 [B].
        """
        args, kwargs = (_taken(value, rows) for value in (self.args, self.kwargs))
        own = {name: p.detach() for name, p in module.named_parameters(remove_duplicate=False)}
        return _outputs(torch.func.functional_call(module, {**own, **parameters}, args, kwargs))


@dataclass(frozen=True, eq=False)
class Stacked:
    """A tensor with k rows per sample, [N, k, ...]."""

    values: Tensor

    def rows(self, index: Tensor) -> Tensor:
        """[B k, ...]."""
        return self.values[index].flatten(0, 1)


def block_inputs(model: Model, rows: Rows, path: str, *, cancel: Cancel | None = None) -> BlockInputs | None:
    """The arguments of a block; None where it cannot be run by itself.

    That is: it is executed more than once in a call of the denoiser or not at all, or something that is no tensor of
    rows differs between calls.
    """
    calls: list[tuple[Drawn, Any]] = []
    noted: list[Any] = []
    results: list[Any] = []
    module = model.denoiser.get_submodule(path)

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        noted.append((args, kwargs))
        if calls:  # the first call of the denoiser goes to its end, to see whether the block is executed again
            raise Enough

    handles = [module.register_forward_pre_hook(note, with_kwargs=True, prepend=True),
               module.register_forward_hook(lambda _, __, result: results.append(_outputs(result)))]
    try:
        for one in run(model, rows, cancel=cancel):
            if len(noted) != 1:
                return None
            calls.append((one, noted.pop()))
    finally:
        for handle in handles:
            handle.remove()
    joined = _joined(calls)
    if joined is _UNLIKE:
        return None
    found = BlockInputs(*joined)
    return found if _agrees(found, module, calls[0][0], results[0]) else None


def block_outputs(model: Model, rows: Rows, paths: Sequence[str], *,
                  cancel: Cancel | None = None) -> dict[str, tuple[Tensor, ...]]:
    """What blocks give, path -> outputs, each [N, ...] on the CPU."""
    seen: dict[str, list[tuple[Tensor, ...]]] = {path: [] for path in paths}
    now: dict[str, tuple[Tensor, ...]] = {}
    handles = [model.denoiser.get_submodule(path).register_forward_hook(functools.partial(_note_output, now, path))
               for path in paths]
    try:
        for one in run(model, rows, cancel=cancel):
            for path, outputs in now.items():
                seen[path].append(tuple(picked(t, one).cpu() for t in outputs))
            now.clear()
    finally:
        for handle in handles:
            handle.remove()
    return {path: tuple(torch.cat(parts) for parts in zip(*found, strict=True))
            for path, found in seen.items() if found}


def output_bytes(model: Model, rows: Rows, paths: Sequence[str]) -> dict[str, int]:
    """Bytes of `block_outputs` per path, from one call; paths that are not executed are left out."""
    first = replace(rows, drawn=rows.drawn[:1])
    count = len(picked(torch.zeros(first.drawn[0].call.rows), first.drawn[0]))
    return {path: sum(t.nbytes for t in found) // count * rows.count
            for path, found in block_outputs(model, first, paths).items()}


def grouped(sizes: Mapping[str, int], budget: int) -> Iterator[list[str]]:
    """Names in order, dealt into groups of at most `budget` bytes (or a single larger one)."""
    return _grouped(sizes, budget)


def _grouped(sizes: Mapping[str, int], budget: int) -> Iterator[list[str]]:
    group: list[str] = []
    held = 0
    for name, size in sizes.items():
        if group and held + size > budget:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


class _Hooks:
    """Notes the first input of modules in a call; ends the call once all have been seen."""

    def __init__(self, model: Model, modules: Sequence[str], *, early: bool = True) -> None:
        self._modules = {path: model.denoiser.get_submodule(path) for path in modules}
        self._early = early
        self._now: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> dict[str, Tensor]:
        for path, module in self._modules.items():
            self._handles.append(module.register_forward_pre_hook(
                functools.partial(self._note, path), with_kwargs=True, prepend=True))
        return self._now

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, path: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if path in self._now:
            return
        self._now[path] = args[0] if args else next(v for v in kwargs.values() if isinstance(v, Tensor))
        if self._early and len(self._now) == len(self._modules):
            raise Enough


def _sizes(model: Model, rows: Rows, modules: Sequence[str]) -> dict[str, int]:
    """Bytes per row of every module's input; those that are not executed are left out."""
    first = replace(rows, drawn=rows.drawn[:1])
    with _Hooks(model, modules, early=False) as now:
        for one in run(model, first):
            return {path: picked(x, one)[:1].numel() * torch.float32.itemsize for path, x in now.items()}
    return {}


@torch.no_grad()
def _agrees(inputs: BlockInputs, module: nn.Module, one: Drawn, seen: tuple[Tensor, ...]) -> bool:
    """Whether the block, run alone on the rows of a call, gives what it gave within the denoiser."""
    wanted = tuple(picked(t, one) for t in seen)
    try:
        found = inputs.call(module, {}, torch.arange(len(wanted[0])))
    except (RuntimeError, IndexError, ValueError):
        return False
    return len(found) == len(wanted) and all(
        f.shape == w.shape and bool((f - w).abs().max() <= TOLERANCE * w.abs().max())
        for f, w in zip(found, wanted, strict=True))


_UNLIKE = object()


def _joined(calls: Sequence[tuple[Drawn, Any]]) -> Any:
    """One nested value out of one per call: tensors of rows stacked, everything else once, or `_UNLIKE`."""
    first = calls[0][1]
    if isinstance(first, Tensor):
        return _joined_tensors(calls)
    if isinstance(first, (dict, list, tuple)):
        keys = list(first) if isinstance(first, dict) else range(len(first))
        if any(not isinstance(v, type(first)) or len(v) != len(first) for _, v in calls):
            return _UNLIKE
        found = [_joined([(one, value[key]) for one, value in calls]) for key in keys]
        if any(f is _UNLIKE for f in found):
            return _UNLIKE
        return dict(zip(keys, found, strict=True)) if isinstance(first, dict) else type(first)(found)
    return first if all(type(v) is type(first) for _, v in calls) else _UNLIKE


def _joined_tensors(calls: Sequence[tuple[Drawn, Any]]) -> Any:
    tensors = [v for _, v in calls]
    if not all(isinstance(v, Tensor) for v in tensors):
        return _UNLIKE
    same = all(v.shape == tensors[0].shape and torch.equal(v, tensors[0]) for v in tensors)
    own = all(v.ndim and len(v) == one.call.rows for one, v in calls)
    if own or (not same and all(v.ndim and len(v) and len(v) % one.call.rows == 0 for one, v in calls)):
        parts = [v.reshape(one.call.rows, -1, *v.shape[1:]) for one, v in calls]
        parts = [p if one.pick is None else p[one.pick] for (one, _), p in zip(calls, parts, strict=True)]
        if len({p.shape[1:] for p in parts}) == 1:
            return Stacked(torch.cat(parts))
    return tensors[0] if same else _UNLIKE


def _taken(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Stacked):
        return value.rows(rows)
    if isinstance(value, dict):
        return {k: _taken(v, rows) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_taken(v, rows) for v in value)
    return value


def _note_output(now: dict[str, tuple[Tensor, ...]], path: str, _: nn.Module, __: Any, result: Any) -> None:
    now.setdefault(path, _outputs(result))


def _outputs(result: Any) -> tuple[Tensor, ...]:
    found: list[Tensor] = []
    mapped(result if isinstance(result, (Tensor, list, tuple, dict)) else tuple(result.values()), found.append)
    return tuple(found)
