"""Runs a denoiser once on the meta device and writes down which weights and junctions feed which.

Constraints: no weights and no arithmetic (meta tensors have shapes only); junctions (add, concat, modulate,
attention) stay nodes of their own, or residual adds would make edges grow quadratically; traced tensors are kept
alive, because Python reuses the ids of dead ones; nodes are numbered in order of execution and every edge points
from a lower to a higher number, so the graph is acyclic by construction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.core.graph import NodeKind

# Operation -> kind of junction where two or more traced values meet; any other operation counts as an add.
JUNCTIONS: dict[str, NodeKind] = {
    **dict.fromkeys(("cat", "stack", "hstack", "vstack"), NodeKind.CONCAT),
    **dict.fromkeys(("mul", "mul_", "div", "div_"), NodeKind.MODULATE),
    **dict.fromkeys(("bmm", "mm", "matmul", "baddbmm", "addmm", "einsum"), NodeKind.ATTENTION),
}
ATTENTION_PREFIX = "_scaled_dot_product"
# Operations that hand a tensor on unchanged: what comes out of a concat through them is still the concat itself.
SAME_VALUE = {"clone", "_to_copy", "alias", "detach", "contiguous"}


@dataclass(frozen=True, slots=True)
class Concat:
    """A tensor that is (or elementwise comes from) the channel concat of two traced tensors.

    Attributes:
        first: channels of the first part.
        parts: nodes that produce each part.
        direct: the tensor is the concat itself, nothing in between.
    """

    first: int
    parts: tuple[frozenset[int], frozenset[int]]
    direct: bool


@dataclass(frozen=True, slots=True)
class Value:
    """What is known about a tensor: nodes it comes from, model inputs it depends on, the weight it is a view of."""

    producers: frozenset[int] = frozenset()
    origins: frozenset[str] = frozenset()
    weight: str = ""
    concat: Concat | None = None


@dataclass(slots=True)
class Op:
    """One executed weight or junction.

    Attributes:
        kind: see `NodeKind`.
        path: path of the weight's module, or of the module in which the junction lies.
        inputs: numbers of the nodes that feed it, all lower than its own.
        origins: names of the model inputs it depends on.
        concat: of a weight's input.
    """

    kind: NodeKind
    path: str
    inputs: set[int] = field(default_factory=set)
    origins: set[str] = field(default_factory=set)
    concat: Concat | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """The run, as data.

    Attributes:
        ops: in order of first execution.
        outputs: nodes that the model's output comes from.
        heights: module path -> rows of its output, where that is a picture [B, C, H, W].
    """

    ops: list[Op]
    outputs: frozenset[int]
    heights: dict[str, int]


def weight_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module whose weight can be quantized, by path, in order of registration."""
    return {p: m for p, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))}


def trace(model: nn.Module, inputs: Mapping[str, Any], owner: Mapping[str, str]) -> Trace:
    """Run `model(**inputs)`, all on the meta device.

    Args:
        owner: weight module path -> path under which its tensor is known (shared tensors have one).
    """
    recorder = _Recorder(owner)
    for path, module in weight_modules(model).items():
        recorder.know(module.weight, Value(weight=owner[path]))
    for name, value in inputs.items():
        for tensor in _tensors(value):
            recorder.know(tensor, Value(origins=frozenset((name,))))
    with _paths(model, recorder), torch.no_grad(), recorder:
        result = model(**inputs)
    outputs = [recorder.value(tensor) for tensor in _tensors(result)]
    return Trace(recorder.ops, frozenset().union(*(v.producers for v in outputs)), recorder.heights)


class _Recorder(TorchDispatchMode):
    def __init__(self, owner: Mapping[str, str]) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.heights: dict[str, int] = {}
        self.stack: list[str] = [""]
        self._owner = owner
        self._values: dict[int, Value] = {}
        self._alive: list[torch.Tensor] = []
        self._weight_ops: dict[str, int] = {}
        self._written: dict[int, Value] = {}

    def know(self, tensor: torch.Tensor, value: Value) -> None:
        self._values[id(tensor)] = value
        self._alive.append(tensor)

    def value(self, tensor: torch.Tensor) -> Value:
        known = self._values.get(id(tensor), _NOTHING)
        written = self._written.get(tensor.untyped_storage()._cdata) if self._written else None
        return _union((known, written)) if written else known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tensors = list(_tensors((args, kwargs)))
        values = [v for t in tensors if (v := self.value(t)) is not _NOTHING]
        outputs = list(_tensors(result))
        if not values or not outputs:
            return result
        name = func._schema.name.partition("::")[2]
        value = self._result(name, values, args, outputs)
        for tensor in outputs:
            self.know(tensor, value)
        if func._schema.is_mutable:
            self._write(outputs[0], value)
        return result

    def _write(self, tensor: torch.Tensor, value: Value) -> None:
        """An in-place operation is seen by every view of the same memory."""
        storage = tensor.untyped_storage()
        whole = tensor.numel() * tensor.element_size() == storage.nbytes()
        before = self._written.get(storage._cdata)
        self._written[storage._cdata] = value if whole or before is None else _union((before, value))

    def _result(self, name: str, values: list[Value], args: Any, outputs: list[torch.Tensor]) -> Value:
        weights = [v.weight for v in values if v.weight]
        traced = [v for v in values if not v.weight]
        if weights and not traced:
            return Value(weight=weights[0])
        if weights:
            return self._weight(weights[0], traced)
        producers = frozenset().union(*(v.producers for v in traced))
        origins = frozenset().union(*(v.origins for v in traced))
        if len(producers) > 1 and len(traced) > 1:
            producers = frozenset((self._junction(name, traced, producers, origins),))
        return Value(producers, origins, concat=_concat(name, traced, args, outputs))

    def _weight(self, path: str, traced: list[Value]) -> Value:
        number = self._weight_ops.get(path)
        if number is None:
            number = self._weight_ops[path] = len(self.ops)
            self.ops.append(Op(NodeKind.WEIGHT, path))
        op = self.ops[number]
        # A weight that runs again later is one node; edges that would point backwards are left out.
        op.inputs.update(p for v in traced for p in v.producers if p < number)
        op.origins.update(o for v in traced for o in v.origins)
        op.concat = op.concat or next((v.concat for v in traced if v.concat), None)
        return Value(frozenset((number,)), frozenset(op.origins))

    def _junction(self, name: str, traced: list[Value], producers: frozenset[int], origins: frozenset[str]) -> int:
        """Number of the node where these values meet: a new one, or one they complete."""
        attention = name.startswith(ATTENTION_PREFIX)
        kind = NodeKind.ATTENTION if attention else JUNCTIONS.get(name, NodeKind.ADD)
        path, latest = self.stack[-1], max(producers)
        last = self.ops[latest]
        if last.path == path and last.kind is not NodeKind.WEIGHT:
            rest = producers - {latest}
            # scale then shift is one modulation; query x key then x value is one attention
            completes = last.kind is NodeKind.MODULATE and rest <= last.inputs
            if completes or (kind is last.kind is NodeKind.ATTENTION):
                last.inputs |= rest
                last.origins |= origins
                return latest
        self.ops.append(Op(kind, path, set(producers), set(origins)))
        return len(self.ops) - 1

    def entered(self, path: str) -> None:
        self.stack.append(path)

    def left(self, path: str, output: Any) -> None:
        self.stack.pop()
        first = next(_tensors(output), None)
        if first is not None and first.dim() == 4:
            self.heights[path] = first.shape[-2]


_NOTHING = Value()


def _union(values: Iterable[Value]) -> Value:
    values = list(values)
    return Value(frozenset().union(*(v.producers for v in values)), frozenset().union(*(v.origins for v in values)),
                 next((v.weight for v in values if v.weight), ""), values[0].concat)


def _concat(name: str, traced: list[Value], args: Any, outputs: list[torch.Tensor]) -> Concat | None:
    """Concat mark of a result: a fresh channel concat of two, or the one it was computed from elementwise."""
    if name == "cat" and len(traced) == 2 and len(args[0]) == 2:
        parts, axis = args[0], args[1] if len(args) > 1 else 0
        channels = 1 if outputs[0].dim() == 4 else outputs[0].dim() - 1
        if outputs[0].dim() >= 3 and axis % outputs[0].dim() == channels:
            return Concat(parts[0].shape[channels], (traced[0].producers, traced[1].producers), True)
        return None
    marks = [v.concat for v in traced if v.concat]
    if len(traced) == 1 and marks and _numel_of_concat_kept(args, outputs[0]):
        return Concat(marks[0].first, marks[0].parts, marks[0].direct and name in SAME_VALUE)
    return None


def _numel_of_concat_kept(args: Any, output: torch.Tensor) -> bool:
    """The channels stay where they are: the result has the shape of the operation's first tensor, or is a view
    of the same number of values with the same last axis."""
    first = next(_tensors(args), None)
    return first is not None and (
        first.shape == output.shape or (first.numel() == output.numel() and first.shape[-1] == output.shape[-1])
    )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)


@contextlib.contextmanager
def _paths(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """While the block runs, `recorder` is told which module is being executed."""
    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, a, path=path: recorder.entered(path)))
        handles.append(module.register_forward_hook(lambda m, a, out, path=path: recorder.left(path, out)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
