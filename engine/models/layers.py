"""From a trace to layers and the operation graph: shared tensors merged, long skips split, ties and roles assigned.

A split layer becomes two weight nodes, `path:0` (trunk) and `path:1` (skip), that meet in an add; an excluded one
is passed through; a concat whose parts go to split halves alone disappears.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from engine.core.graph import NodeKind
from engine.core.layer import Layer, Role
from engine.models.catalog import Rules
from engine.models.inputs import LATENT_NAMES, TIME_NAMES
from engine.models.tracing import Op, Trace, weight_modules

# Attribute names -> role; the first pattern found in the module path wins.
NAME_ROLES: tuple[tuple[str, Role], ...] = (
    (r"(^|\.)(conv_shortcut|skip_linear|nin_shortcut|skip_proj)$", Role.SKIP),
    (r"(^|\.)(downsamplers|upsamplers)\.", Role.SAMPLER),
    (r"(^|\.)(to_q|q_proj|add_q_proj|query|\w*qkv\w*)$", Role.QUERY),
    (r"(^|\.)(to_k|k_proj|add_k_proj|key|\w*kv_proj)$", Role.KEY),
    (r"(^|\.)(to_v|v_proj|add_v_proj|value)$", Role.VALUE),
    (r"(^|\.)(to_out(\.\d+)?|to_add_out|out_proj|proj_attn)$", Role.ATTENTION_OUT),
    (r"(^|\.)(time_emb_proj|adaln\w*\.linear|norm\w*\.linear\w*)$|(^|\.)\w*(_mod|modulation\w*)\.", Role.MODULATION),
    (r"(^|\.)(\w+_)?(ff|mlp|ffn|feed_forward)\w*\.|(^|\.)(proj_mlp|gate_proj|up_proj|down_proj)$", Role.FEED_FORWARD),
    (r"(^|\.)resnets\.\d+\.conv\d$", Role.RESNET),
    (r"(^|\.)(proj_in|proj_out)$", Role.PROJECTION),
)
KINDS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Linear, "linear"), (nn.Conv1d, "conv1d"), (nn.Conv2d, "conv2d"),
)


@dataclass(slots=True)
class Part:
    """A node of the operation graph before it is given a block.

    `path` is the module it lies in, `layer` the layer of a weight node; `inputs` are lower numbers in the list.
    """

    id: str
    kind: NodeKind
    path: str
    layer: str
    inputs: set[int]
    origins: frozenset[str]

    @property
    def latent(self) -> bool:
        """Whether the noisy picture flows through it."""
        return not self.origins.isdisjoint(LATENT_NAMES)


@dataclass(frozen=True)
class Anatomy:
    """Layers in execution order (without blocks yet) and the operation graph."""

    layers: tuple[Layer, ...]
    parts: list[Part]
    outputs: frozenset[int] = field(default=frozenset())


def owners(model: nn.Module) -> dict[str, str]:
    """Path of every weight module -> first path that has the same tensor (storage, offset and shape)."""
    first: dict[object, str] = {}
    result = {}
    for path, module in weight_modules(model).items():
        weight = module.weight
        place = id(weight) if weight.is_meta else (
            weight.untyped_storage().data_ptr(), weight.storage_offset(), tuple(weight.shape))
        result[path] = first.setdefault(place, path)
    return result


def anatomy(model: nn.Module, trace: Trace, owner: Mapping[str, str], rules: Rules) -> Anatomy:
    """Layers and operation graph of a traced model."""
    modules = weight_modules(model)
    cutter = _Cutter(modules, rules)
    parts, outputs = cutter.parts(trace)
    parts, outputs = _without_dead_junctions(parts, outputs)
    roles = _roles(parts, outputs)
    users: dict[str, list[str]] = {}
    for path, first in owner.items():
        users.setdefault(first, []).append(path)
    ordered = list(dict.fromkeys(p.path for p in parts if p.layer))
    unused = [p for p in users if p not in set(ordered) and not cutter.is_excluded(p)]
    layers = [
        layer for path in ordered + unused
        for layer in _layers_of(path, modules[path], cutter.cuts.get(path), roles, tuple(users.get(path, (path,))))
    ]
    return Anatomy(_tied(layers, rules), parts, outputs)


class _Cutter:
    """Turns traced operations into parts: splits, passes excluded weights through, names junctions."""

    def __init__(self, modules: Mapping[str, nn.Module], rules: Rules) -> None:
        self.cuts: dict[str, int] = {}
        self._modules = modules
        self._rules = rules
        self._parts: list[Part] = []
        self._numbers: Counter[str] = Counter()

    def is_excluded(self, path: str) -> bool:
        return bool(self._rules.exclude and re.fullmatch(self._rules.exclude, path))

    def parts(self, trace: Trace) -> tuple[list[Part], frozenset[int]]:
        stands_for: list[frozenset[int]] = []

        def new(numbers: frozenset[int] | set[int]) -> set[int]:
            return {n for old in numbers for n in stands_for[old]}

        for op in trace.ops:
            origins = frozenset(op.origins)
            if op.kind is not NodeKind.WEIGHT:
                stands_for.append(self._junction(op.kind, op.path, new(op.inputs), origins))
            elif self.is_excluded(op.path):
                stands_for.append(frozenset(new(op.inputs)))
            elif op.concat and self._is_split(op, sides := [new(part) for part in op.concat.parts]):
                self.cuts[op.path] = op.concat.first
                halves = {self._weight(f"{op.path}:{i}", op.path, side, origins) for i, side in enumerate(sides)}
                stands_for.append(self._junction(NodeKind.ADD, op.path, halves, origins))
            else:
                stands_for.append(frozenset((self._weight(op.path, op.path, new(op.inputs), origins),)))
        return self._parts, frozenset(new(trace.outputs))

    def _is_split(self, op: Op, sides: list[set[int]]) -> bool:
        assert op.concat is not None
        weight = self._modules[op.path].weight
        if not 0 < op.concat.first < weight.shape[1]:
            return False
        if self._rules.split:
            return bool(re.fullmatch(self._rules.split, op.path))
        feature_maps = all(any(self._parts[n].latent for n in side) for side in sides)
        return op.concat.direct and weight.dim() > 2 and feature_maps

    def _weight(self, name: str, path: str, inputs: set[int], origins: frozenset[str]) -> int:
        self._parts.append(Part(name, NodeKind.WEIGHT, path, name, inputs, origins))
        return len(self._parts) - 1

    def _junction(self, kind: NodeKind, path: str, inputs: set[int], origins: frozenset[str]) -> frozenset[int]:
        prefix = f"{path}/{kind}"
        self._parts.append(Part(f"{prefix}{self._numbers[prefix]}", kind, path, "", inputs, origins))
        self._numbers[prefix] += 1
        return frozenset((len(self._parts) - 1,))


def _without_dead_junctions(parts: list[Part], outputs: frozenset[int]) -> tuple[list[Part], frozenset[int]]:
    """The graph without junctions that feed nothing."""
    used = set(outputs)
    keep = [False] * len(parts)
    for number in reversed(range(len(parts))):
        if parts[number].layer or number in used:
            keep[number] = True
            used |= parts[number].inputs
    numbers = {old: new for new, old in enumerate(n for n, kept in enumerate(keep) if kept)}
    kept_parts = [replace(parts[old], inputs={numbers[i] for i in parts[old].inputs}) for old in numbers]
    return kept_parts, frozenset(numbers[n] for n in outputs)


def _layers_of(
    path: str, module: nn.Module, cut: int | None, roles: Mapping[str, Role], users: tuple[str, ...]
) -> list[Layer]:
    kind = next(name for cls, name in KINDS if isinstance(module, cls))
    rows, channels, *kernel = module.weight.shape
    spans = [(path, 0, channels)] if cut is None else [(f"{path}:0", 0, cut), (f"{path}:1", cut, channels)]
    return [
        Layer(name, path, kind, (rows, stop - start, *kernel), start, stop, roles.get(name, _role_by_name(path)),
              "", users)
        for name, start, stop in spans
    ]


def _tied(layers: list[Layer], rules: Rules) -> tuple[Layer, ...]:
    """Layers whose groups in the `tie` pattern are equal copy the choice of the first."""
    first: dict[tuple[str, ...], str] = {}
    result = []
    for layer in layers:
        match = rules.tie and re.fullmatch(rules.tie, layer.module)
        leader = first.setdefault(match.groups(), layer.name) if match else layer.name
        result.append(layer if leader == layer.name else replace(layer, tie=leader))
    return tuple(result)


def _role_by_name(path: str) -> Role:
    return next((role for pattern, role in NAME_ROLES if re.search(pattern, path)), Role.OTHER)


def _roles(parts: list[Part], outputs: frozenset[int]) -> dict[str, Role]:
    """Role of every executed layer: by its place in the graph at both ends, then by name, then by what feeds it."""
    consumers: list[list[int]] = [[] for _ in parts]
    for number, part in enumerate(parts):
        for source in part.inputs:
            consumers[source].append(number)
    last = _last_weights(parts, outputs)
    roles = {}
    for number, part in enumerate(parts):
        if part.layer:
            if number in last:
                roles[part.layer] = Role.OUTPUT
            elif part.latent and not any(parts[i].latent for i in part.inputs):
                roles[part.layer] = Role.INPUT
            else:
                role = _role_by_name(part.path)
                roles[part.layer] = _role_by_flow(parts, number, consumers[number]) if role is Role.OTHER else role
    return roles


def _role_by_flow(parts: list[Part], number: int, consumers: list[int]) -> Role:
    part = parts[number]
    if part.latent or not part.origins:
        return Role.OTHER
    if consumers and all(parts[c].latent and parts[c].kind is not NodeKind.WEIGHT for c in consumers):
        return Role.MODULATION
    return Role.TIME if part.origins <= set(TIME_NAMES) else Role.CONDITION


def _last_weights(parts: list[Part], outputs: frozenset[int]) -> set[int]:
    """The weights the output comes from, at most one junction away (the newest of those that meet there)."""
    last = {n for n in outputs if parts[n].layer}
    for number in outputs - last:
        weights = [i for i in parts[number].inputs if parts[i].layer]
        last |= {i for i in weights if parts[i].path == parts[max(weights)].path}
    return last
