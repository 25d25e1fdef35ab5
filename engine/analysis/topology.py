"""The denoiser's graph as the predictor sees it: arrays of nodes and edges, positional codes, and parts with roots.

Everything is derived from the traced graph and the block forest; there are no lists per model (Qua2SeDiMo hard-codes
node numbers, section 7.3, slip 10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.core.errors import StudyError
from engine.core.graph import Block, NodeKind, Structure
from engine.core.layer import Role

Ints = npt.NDArray[np.int64]

HOPS = 4
JUNCTION = -1
TYPES: tuple[str, ...] = (*(r.value for r in Role), *(k.value for k in NodeKind if k is not NodeKind.WEIGHT))
POSITIONS = ("stage", "block", "unit", "type")


@dataclass(frozen=True, slots=True)
class Part:
    """Layers that are scored together: the layers of one deepest block (section 2.3).

    Attributes:
        id: block id.
        choices: indices into `Topology.choices`.
        nodes: node indices, weights and junctions, in execution order.
        root: node index; the first one that all weights of the part reach.
        hops: how far the farthest weight is from the root, at most `HOPS`.
    """

    id: str
    choices: tuple[int, ...]
    nodes: tuple[int, ...]
    root: int
    hops: int


@dataclass(frozen=True, slots=True)
class Topology:
    """One model's operation graph.

    Attributes:
        choices: names of the layers with an option of their own, C of them.
        node_ids: [N].
        choice_of: [N], index into `choices` (tied copies share one), `JUNCTION` where nothing is quantized.
        edges: [2, E], source and target.
        codes: [N, 4], stage, block, unit and type; 0 = none in the first three.
        sizes: how many values each code takes.
        parts: disjoint, together all choices.
        roots: per hop 0..HOPS the nodes pooled there: all weights at hop 0, roots of the parts with that many hops
            above; empty = all nodes.
    """

    choices: tuple[str, ...]
    node_ids: tuple[str, ...]
    choice_of: Ints
    edges: Ints
    codes: Ints
    sizes: tuple[int, ...]
    parts: tuple[Part, ...]
    roots: tuple[tuple[int, ...], ...]

    @property
    def ranked_hops(self) -> tuple[int, ...]:
        """Hops whose embedding norms the ranking loss orders: those with roots, and the last, which the regressor
        reads."""
        return tuple(h for h in range(HOPS + 1) if self.roots[h] or h == HOPS)


def topology(structure: Structure) -> Topology:
    """Arrays, codes and parts of a structure.

    Raises:
        StudyError: it has no operation graph, or a layer is missing from it.
    """
    choices = tuple(layer.name for layer in structure.choices)
    index = {name: i for i, name in enumerate(choices)}
    choice_of_layer = {layer.name: index[layer.choice] for layer in structure.layers}
    missing = [layer.name for layer in structure.layers if layer.name not in {n.layer for n in structure.nodes}]
    if missing or not structure.nodes:
        raise StudyError(f"The operation graph of {structure.model} lacks {missing[0] if missing else 'all layers'}; "
                         f"trace the model again.")
    choice_of = np.array([choice_of_layer[n.layer] if n.layer else JUNCTION for n in structure.nodes], np.int64)
    edges = np.array(sorted({(a, b) for a, b in structure.edges if a != b}), np.int64).reshape(-1, 2).T
    homes = [_homes(structure, number) for number in range(len(structure.nodes))]
    codes, sizes = _codes(structure, homes)
    parts = _parts(structure, homes, choice_of, edges)
    weights = tuple(int(i) for i in np.flatnonzero(choice_of >= 0))
    roots = (weights, *(tuple(sorted(p.root for p in parts if p.hops == h)) for h in range(1, HOPS + 1)))
    return Topology(choices, tuple(n.id for n in structure.nodes), choice_of, edges, codes, sizes, parts, roots)


def _homes(structure: Structure, number: int) -> list[Block]:
    """The blocks around a node, innermost first."""
    node = structure.nodes[number]
    around = [
        b for b in structure.blocks
        if (node.layer in b.layers if node.layer else b.id == node.block or _inside(node.id, b.id))
    ]
    return sorted(around, key=lambda b: (len(b.layers), ("unit", "block", "stage").index(b.level)))


def _inside(path: str, block: str) -> bool:
    return path == block or path.startswith((f"{block}.", f"{block}/"))


def _codes(structure: Structure, homes: Sequence[Sequence[Block]]) -> tuple[Ints, tuple[int, ...]]:
    """Positional codes of every node, and how many values each takes."""
    role = {layer.name: layer.role.value for layer in structure.layers}
    places: dict[str, dict[str, int]] = {
        level: {b.id: i + 1 for i, b in enumerate(structure.level(level))} for level in ("stage", "block")
    }
    unit: dict[str, int] = {}
    for block in structure.level("unit"):
        unit[block.id] = 1 + sum(other in unit for other in
                                 (b.id for b in structure.level("unit") if b.parent == block.parent))
    places["unit"] = unit
    rows = []
    for node, around in zip(structure.nodes, homes, strict=True):
        code = [next((places[level][b.id] for b in around if b.level == level), 0) for level in POSITIONS[:3]]
        rows.append([*code, TYPES.index(role[node.layer] if node.layer else node.kind.value)])
    codes = np.array(rows, np.int64)
    return codes, (*(int(codes[:, i].max()) + 1 for i in range(3)), len(TYPES))


def _parts(structure: Structure, homes: Sequence[Sequence[Block]], choice_of: Ints, edges: Ints) -> tuple[Part, ...]:
    """Layers grouped by their innermost block, with the junctions inside it; a tied copy stays with its original."""
    seen: set[int] = set()
    grouped: dict[str, list[int]] = {}
    for number, around in enumerate(homes):
        choice = int(choice_of[number])
        if choice >= 0 and choice not in seen:
            seen.add(choice)
            grouped.setdefault(around[0].id if around else structure.nodes[number].id, []).append(number)
    junctions: dict[str, list[int]] = {}
    for number, around in enumerate(homes):
        if choice_of[number] < 0 and around:
            junctions.setdefault(around[0].id, []).append(number)
    parts = []
    for name, weights in grouped.items():
        root, hops = _root(weights, sorted([*weights, *junctions.get(name, [])]), edges)
        parts.append(Part(name, tuple(int(choice_of[w]) for w in weights),
                          tuple(sorted([*weights, *junctions.get(name, [])])), root, hops))
    return tuple(parts)


def _root(weights: Sequence[int], nodes: Sequence[int], edges: Ints) -> tuple[int, int]:
    """The node nearest to all weights among those that most of them reach within the part, and the distance of the
    farthest that does, at most `HOPS`. Of equals the last weight in execution order."""
    inside = set(nodes)
    follow: dict[int, list[int]] = {}
    for a, b in edges.T.tolist():
        if a in inside and b in inside:
            follow.setdefault(a, []).append(b)
    reached: dict[int, list[int]] = {n: [] for n in nodes}
    for weight in weights:
        for node, distance in _distances(weight, follow).items():
            if distance <= HOPS:
                reached[node].append(distance)
    best = min(nodes, key=lambda n: (-len(reached[n]), max(reached[n], default=0), n not in weights, -n))
    return best, max(reached[best], default=0)


def _distances(start: int, follow: dict[int, list[int]]) -> dict[int, int]:
    """Steps from a node to all it reaches."""
    found, front = {start: 0}, [start]
    while front:
        after = []
        for node in front:
            for other in follow.get(node, []):
                if other not in found:
                    found[other] = found[node] + 1
                    after.append(other)
        front = after
    return found
