"""The block graph: operation nodes folded to blocks, edges reduced to the chain, long skips and conditions marked.

An edge is left out where a longer way between the same blocks says the same, unless it is a long skip: one that
jumps over at least one whole stage of the trunk. Edges that do not carry the noisy picture (out of time, text and
class embeddings) are marked as conditions; those out of blocks it does not reach at all are never left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.core.graph import BlockEdge, NodeKind
from engine.models.blocks import Folder, Place
from engine.models.layers import Part


@dataclass(frozen=True)
class BlockGraph:
    """Block of every part, edges between blocks, and where each block is drawn."""

    of_part: tuple[str, ...]
    edges: tuple[BlockEdge, ...]
    places: dict[str, Place]
    layout: str


def block_graph(folder: Folder, parts: list[Part], heights: Mapping[str, int]) -> BlockGraph:
    """Fold the operation graph.

    Args:
        heights: module path -> rows of its output where that is a picture.
    """
    of_part = _assign(folder, parts)
    order = {block: i for i, block in enumerate(dict.fromkeys(of_part[n] for n, p in enumerate(parts) if p.layer))}
    trunk = {of_part[n] for n, p in enumerate(parts) if p.latent}
    pairs = {
        (of_part[source], of_part[n]) for n, part in enumerate(parts) for source in part.inputs
        if order[of_part[source]] < order[of_part[n]]
    }
    carried = {
        (of_part[source], of_part[n]) for n, part in enumerate(parts) for source in part.inputs if parts[source].latent
    }
    flow = {pair for pair in pairs if pair[0] in trunk}
    skips = _long_skips(folder, flow, order, trunk, parts)
    kept = (flow - _implied(flow, order)) | skips | (pairs - flow)
    edges = tuple(
        BlockEdge(a, b, (a, b) in skips, (a, b) not in carried)
        for a, b in sorted(kept, key=lambda pair: (order[pair[0]], order[pair[1]]))
    )
    places, layout = _places(order, trunk, skips, heights)
    return BlockGraph(tuple(of_part), edges, places, layout)


def _assign(folder: Folder, parts: list[Part]) -> list[str]:
    """Block of every part. Junctions between blocks go with the block they follow (adds) or lead to (others)."""
    assigned = [
        folder.address(part.path).block if part.layer else folder.block_of(part.path) for part in parts
    ]
    consumers: list[int | None] = [None] * len(parts)
    for number in reversed(range(len(parts))):
        for source in parts[number].inputs:
            consumers[source] = number

    def producer(number: int) -> str:
        while not assigned[number] and parts[number].inputs:
            number = max(parts[number].inputs)
        return assigned[number]

    for number, part in enumerate(parts):
        if not assigned[number] and part.kind is NodeKind.ADD:
            assigned[number] = producer(number)
    for number in reversed(range(len(parts))):
        if not assigned[number]:
            consumer = consumers[number]
            assigned[number] = producer(number) if consumer is None else assigned[consumer]
    return assigned


def _long_skips(
    folder: Folder, flow: set[tuple[str, str]], order: Mapping[str, int], trunk: set[str], parts: list[Part]
) -> set[tuple[str, str]]:
    """Edges of the trunk that jump over a stage of it."""
    stage = {a.block: a.stage for a in (folder.address(p.path) for p in parts if p.layer)}
    stages = list(dict.fromkeys(stage[b] for b in sorted(trunk, key=lambda b: order[b])))
    rank = {name: i for i, name in enumerate(stages)}
    implied = _implied(flow, order)
    return {(a, b) for a, b in implied if rank[stage[b]] - rank[stage[a]] > 1}


def _implied(flow: set[tuple[str, str]], order: Mapping[str, int]) -> set[tuple[str, str]]:
    """Edges with another way from source to target (reachability as bit sets, in reverse order)."""
    targets: dict[str, list[str]] = {}
    for a, b in flow:
        targets.setdefault(a, []).append(b)
    reach: dict[str, int] = {}
    implied = set()
    for a in sorted(order, key=lambda block: -order[block]):
        reach[a] = 0
        for b in sorted(targets.get(a, ()), key=lambda block: order[block]):
            if reach[a] >> order[b] & 1:
                implied.add((a, b))
            reach[a] |= 1 << order[b] | reach[b]
    return implied


def _places(
    order: Mapping[str, int], trunk: set[str], skips: set[tuple[str, str]], heights: Mapping[str, int]
) -> tuple[dict[str, Place], str]:
    """The U: down up to the last block a long skip leaves, up from the first one it enters, mid between.

    A model is a U where the picture also gets smaller and larger again; otherwise it is a line.
    """
    way = [block for block in order if block in trunk]
    rows = [heights[block] for block in way if block in heights]
    if not skips or len(rows) < 3 or min(rows) >= min(rows[0], rows[-1]):
        return {}, "line"
    levels = sorted(set(rows), reverse=True)
    last_down = max(order[a] for a, _ in skips)
    first_up = min(order[b] for _, b in skips)
    places, height = {}, rows[0]
    for block in order:
        if block not in trunk:
            places[block] = Place(0, "down")
            continue
        height = heights.get(block, height)
        side = "down" if order[block] <= last_down else "up" if order[block] >= first_up else "mid"
        places[block] = Place(levels.index(height), side)
    return places, "u"
