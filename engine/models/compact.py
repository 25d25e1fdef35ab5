"""A structure as compact JSON: records as rows of values, layers and blocks named by number."""

from __future__ import annotations

import json
from typing import Any

from engine.core.graph import Block, BlockEdge, Component, Node, NodeKind, Structure
from engine.core.layer import Layer, Role

VERSION = 1
_SCALARS = ("model", "denoiser_class", "identity", "precision_bits", "other_weights", "layout")
_KINDS, _ROLES = list(NodeKind), list(Role)


def to_compact(structure: Structure) -> str:
    """JSON text that `from_compact` reads back into an equal structure."""
    number = {layer.name: i for i, layer in enumerate(structure.layers)}
    block = {b.id: i for i, b in enumerate(structure.blocks)}
    data: dict[str, Any] = {"version": VERSION, **{key: getattr(structure, key) for key in _SCALARS}}
    data["layers"] = [
        [x.name, x.module, x.kind, x.shape, x.start, x.stop, _ROLES.index(x.role), block[x.block], x.modules, x.tie]
        for x in structure.layers
    ]
    data["nodes"] = [[n.id, _KINDS.index(n.kind), number.get(n.layer, -1), block[n.block]] for n in structure.nodes]
    data["edges"] = [end for edge in structure.edges for end in edge]
    data["blocks"] = [
        [b.id, b.parent, b.level, b.label, b.kind, [number[n] for n in b.layers], b.order, b.depth, b.side]
        for b in structure.blocks
    ]
    data["block_edges"] = [[block[e.source], block[e.target], e.skip, e.condition] for e in structure.block_edges]
    data["components"] = [[c.name, c.type, c.weights, c.bytes] for c in structure.components]
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


def from_compact(text: str | bytes) -> Structure:
    """The structure in `to_compact`'s text.

    Raises:
        ValueError, KeyError, TypeError, IndexError: it is not such a text.
    """
    data = json.loads(text)
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']}")
    names = [row[0] for row in data["layers"]]
    ids = [row[0] for row in data["blocks"]]
    layers = tuple(
        Layer(name, module, kind, tuple(shape), start, stop, _ROLES[role], ids[block], tuple(modules), tie)
        for name, module, kind, shape, start, stop, role, block, modules, tie in data["layers"]
    )
    ends = data["edges"]
    return Structure(
        **{key: data[key] for key in _SCALARS},
        layers=layers,
        nodes=tuple(Node(i, _KINDS[k], names[n] if n >= 0 else "", ids[b]) for i, k, n, b in data["nodes"]),
        edges=tuple(zip(ends[::2], ends[1::2], strict=True)),
        blocks=tuple(
            Block(i, parent, level, label, kind, tuple(names[n] for n in inside), order, depth, side)
            for i, parent, level, label, kind, inside, order, depth, side in data["blocks"]
        ),
        block_edges=tuple(BlockEdge(ids[a], ids[b], skip, cond) for a, b, skip, cond in data["block_edges"]),
        components=tuple(Component(*row) for row in data["components"]),
    )
