"""Structure -> cards on a grid and edges between them: a U for U-Nets, rows of blocks for transformers.

Positions are in columns (x) and rows (y), not pixels: the browser chooses the pitch that fills its width, so text
keeps its size. Everything here is pure data in, data out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from engine.core.graph import Block, Structure

ASPECT = 1.8  # width / height of the space the graph usually gets
PITCH = (76, 92)  # a column's width and a row's height at which text reads well; only their ratio matters here
GAP = 1.4  # columns between the arms of a U
INDENT = 0.35  # columns by which each deeper level of a U moves inwards
STAGE_GAP = 0.3  # columns between two stages in a row
MAX_COLUMNS = 17  # a wider U folds its levels into two or more rows
FEWEST_SKIPS = 3  # a line with this many long skips is drawn as a U, so that each skip stays in its row


@dataclass(frozen=True, slots=True)
class Card:
    """One card, or a part of one.

    Attributes:
        id, parent, level, label, kind, side, depth: as in `engine.core.graph.Block`.
        short: the part of the label that fits below a card.
        x, y: column and row of the left edge; units lie on their block, stages at their first block.
        layers: choice names inside, in execution order; copies tied to a choice elsewhere are left out.
        weights: weights of those layers, copies included.
    """

    id: str
    parent: str
    level: str
    label: str
    short: str
    kind: str
    side: str
    depth: int
    x: float
    y: float
    layers: tuple[str, ...]
    weights: int


@dataclass(frozen=True, slots=True)
class Scene:
    """What is drawn, in grid units. `edges`: (source, target, "flow" | "skip" | "condition")."""

    layout: str
    columns: float
    rows: float
    cards: tuple[Card, ...]
    edges: tuple[tuple[str, str, str], ...]


Place = Mapping[str, tuple[float, float]]


def scene(structure: Structure, aspect: float = ASPECT) -> Scene:
    """Place every block; `aspect` is the width / height of the space there is."""
    blocks = drawn_blocks(structure)
    edges = drawn_edges(structure, blocks)
    apart = conditioning(blocks, edges)
    flow = [b for b in blocks if b.id not in apart]
    side = [b for b in blocks if b.id in apart]
    if structure.layout == "u":
        places = place_u(flow, side, {b.id: (_side_of(b, flow), b.depth) for b in flow})
    elif (arms := folded_arms(flow, edges)) is not None:
        places = place_u(flow, side, arms)
    else:
        places = place_line([*side, *flow], aspect)
    cards = _cards(structure, blocks, places)
    columns = max((x for x, _ in places.values()), default=0.0) + 1
    rows = max((y for _, y in places.values()), default=0.0) + 1
    return Scene(structure.layout, columns, rows, cards, edges)


def drawn_blocks(structure: Structure) -> tuple[Block, ...]:
    """The blocks that get a card: level "block", and stages that have none inside, in execution order."""
    blocks = structure.level("block")
    filled = {b.parent for b in blocks}
    lonely = [s for s in structure.level("stage") if s.id not in filled and s.layers]
    first = {layer.name: i for i, layer in enumerate(structure.layers)}
    return tuple(sorted((*blocks, *lonely), key=lambda b: min((first[n] for n in b.layers if n in first), default=0)))


def drawn_edges(structure: Structure, blocks: Iterable[Block]) -> tuple[tuple[str, str, str], ...]:
    """Edges between cards with their kind; loops and duplicates dropped."""
    known = {b.id for b in blocks}
    found: dict[tuple[str, str], str] = {}
    for edge in structure.block_edges:
        if edge.source in known and edge.target in known and edge.source != edge.target:
            kind = "condition" if edge.condition else "skip" if edge.skip else "flow"
            found.setdefault((edge.source, edge.target), kind)
    return tuple((a, b, kind) for (a, b), kind in found.items())


def conditioning(blocks: Sequence[Block], edges: Iterable[tuple[str, str, str]]) -> set[str]:
    """Blocks that only feed others from the side: embeddings that no picture data flows through."""
    graph = nx.DiGraph()
    graph.add_nodes_from(b.id for b in blocks)
    graph.add_edges_from((a, b) for a, b, kind in edges if kind != "condition")
    alone = set(nx.isolates(graph))
    feeds = {a for a, _, kind in edges if kind == "condition"}
    kinds = {b.id: b.kind for b in blocks}
    found = {i for i in alone if i in feeds or kinds[i] == "embedding"}
    # A chain of embeddings (time -> pooled text -> ...) that ends in condition edges belongs there as well.
    for part in nx.weakly_connected_components(graph):
        if all(kinds[i] == "embedding" for i in part) and len(part) < len(kinds):
            found |= part
    return found


def _side_of(block: Block, flow: Sequence[Block]) -> str:
    """Arm of a block; one without an arm joins the side of the flow where it is executed."""
    if block.side in ("down", "mid", "up"):
        return block.side
    before = [b.side for b in flow if b.order < block.order]
    return "up" if {"mid", "up"} & set(before) else "down"


def folded_arms(
    flow: Sequence[Block], edges: Iterable[tuple[str, str, str]]
) -> dict[str, tuple[str, int]] | None:
    """Side and depth for a chain of blocks with nested long skips; None where there are too few of them."""
    skips = [(a, b) for a, b, kind in edges if kind == "skip"]
    if len(skips) < FEWEST_SKIPS:
        return None
    rank = {b.id: i for i, b in enumerate(flow)}
    last_source = max(rank[a] for a, _ in skips if a in rank)
    first_target = min(rank[b] for _, b in skips if b in rank)
    if last_source >= first_target:
        return None
    left, right = last_source + 1, len(flow) - first_target
    width = max(3, math.ceil(math.sqrt(max(left, right) * 1.1)))
    levels = math.ceil(max(left, right) / width) - 1
    arms: dict[str, tuple[str, int]] = {}
    for i, block in enumerate(flow):
        if i < left:
            arms[block.id] = ("down", min(i // width, levels))
        elif i < first_target:
            arms[block.id] = ("mid", levels)
        else:
            arms[block.id] = ("up", min((len(flow) - 1 - i) // width, levels))
    return arms


def place_u(flow: Sequence[Block], apart: Sequence[Block], arms: Mapping[str, tuple[str, int]]) -> Place:
    """Left arm down, bottom, right arm up: one row per resolution (more where a row would get too wide)."""
    depths = sorted({depth for side, depth in arms.values() if side != "mid"})
    row_of = {depth: i for i, depth in enumerate(depths)}
    left: dict[int, list[str]] = {i: [] for i in range(len(depths))}
    right: dict[int, list[str]] = {i: [] for i in range(len(depths))}
    middle: list[str] = []
    for block in flow:
        side, depth = arms[block.id]
        if side == "mid":
            middle.append(block.id)
        else:
            (left if side == "down" else right)[row_of[depth]].append(block.id)
    rows = _fold(left, right)
    indents = [min(i, 4) * INDENT for i in range(len(rows))]
    width = max(
        [len(a) + len(b) + GAP + 2 * n for (a, b), n in zip(rows, indents, strict=True)] + [len(middle) + 2 * GAP]
    )
    places: dict[str, tuple[float, float]] = {}
    for y, ((a, b), indent) in enumerate(zip(rows, indents, strict=True)):
        places.update({name: (indent + i, float(y)) for i, name in enumerate(a)})
        places.update({name: (width - indent - len(b) + i, float(y)) for i, name in enumerate(b)})
    bottom = float(len(rows))
    ends = [(indents[-1] + len(rows[-1][0]), width - indents[-1] - len(rows[-1][1]))] if rows else [(0.0, width)]
    start = max(GAP / 2, min(width - len(middle) - GAP / 2, sum(ends[0]) / 2 - len(middle) / 2))
    places.update({name: (start + i, bottom) for i, name in enumerate(middle)})
    places.update(_corner([b.id for b in apart], start, start + len(middle), width, bottom, bool(middle)))
    return places


def _fold(left: Mapping[int, list[str]], right: Mapping[int, list[str]]) -> list[tuple[list[str], list[str]]]:
    """Rows of (left cards, right cards), top to bottom; the right arm runs upwards inside a folded level."""
    rows: list[tuple[list[str], list[str]]] = []
    for level in sorted(left):
        a, b = left[level], right[level]
        parts = max(1, math.ceil((len(a) + len(b) + GAP) / MAX_COLUMNS))
        size_a, size_b = math.ceil(len(a) / parts) or 1, math.ceil(len(b) / parts) or 1
        rows_a = [a[i * size_a : (i + 1) * size_a] for i in range(parts)]
        rows_b = [b[i * size_b : (i + 1) * size_b] for i in range(parts)][::-1]
        rows.extend(zip(rows_a, rows_b, strict=True))
    return rows


def _corner(names: Sequence[str], start: float, stop: float, width: float, bottom: float, taken: bool) -> Place:
    """The free lower corners of the U, for what conditions it; a row of its own where they are too small."""
    if not taken or len(names) + 0.5 <= start:
        return {name: (float(i), bottom) for i, name in enumerate(names)}
    if len(names) + 0.5 <= width - stop:
        return {name: (width - len(names) + i, bottom) for i, name in enumerate(names)}
    return {name: (float(i), bottom + 1) for i, name in enumerate(names)}


def place_line(blocks: Sequence[Block], aspect: float) -> Place:
    """Rows that read like text, with a gap between stages; as many columns as show the cards largest."""
    if not blocks:
        return {}
    stages = len({b.parent for b in blocks})
    slots = len(blocks) + STAGE_GAP * (stages - 1)

    def scale(columns: int) -> float:
        rows = math.ceil(slots / columns)
        return min(aspect / (columns * PITCH[0]), 1 / (rows * PITCH[1]))

    columns = max(range(4, 15), key=lambda c: (scale(c), -c))
    places: dict[str, tuple[float, float]] = {}
    x, y, stage = 0.0, 0.0, blocks[0].parent
    for block in blocks:
        if block.parent != stage and x:
            x += STAGE_GAP
        stage = block.parent
        if x + 1 > columns + STAGE_GAP * (stages - 1):
            x, y = 0.0, y + 1
        places[block.id] = (x, y)
        x += 1
    return places


_SHORTER = (
    (" embedding", ""), ("Transformer", "Transf."), ("Attention", "Attn"),
    ("Downsampler", "Down"), ("Downsample", "Down"), ("Upsampler", "Up"), ("Upsample", "Up"), ("Convolution", "Conv"),
)  # fmt: skip


def short_label(label: str) -> str:
    """What stands below a card: the last part of the label, long words cut down."""
    text = label.rsplit(" · ", 1)[-1]
    for long, short in _SHORTER:
        text = text.replace(long, short).replace(long.lower(), short.lower())
    return text


def _cards(structure: Structure, drawn: Sequence[Block], places: Place) -> tuple[Card, ...]:
    owned = {layer.name: layer for layer in structure.layers if not layer.tie}
    weights = dict.fromkeys(owned, 0)
    for layer in structure.layers:
        weights[layer.choice] = weights.get(layer.choice, 0) + layer.weights
    drawn_ids = {b.id for b in drawn}
    parents = {b.id: b.parent for b in structure.blocks}

    def card(block: Block, level: str) -> Card:
        names = tuple(n for n in block.layers if n in owned)
        x, y = _place_of(block.id, places, parents, structure.blocks)
        return Card(
            block.id, block.parent, level, block.label, short_label(block.label), block.kind, block.side,
            block.depth, round(x, 3), round(y, 3), names, sum(weights[n] for n in names),
        )  # fmt: skip

    stages = [card(b, "stage") for b in structure.level("stage") if b.id not in drawn_ids]
    blocks = [card(b, "block") for b in drawn]
    units = [card(b, "unit") for b in structure.level("unit") if b.layers]
    return (*stages, *blocks, *units)


def _place_of(name: str, places: Place, parents: Mapping[str, str], blocks: Sequence[Block]) -> tuple[float, float]:
    """Own place, or that of the nearest enclosing block, or of the first block inside."""
    above = name
    while above and above not in places:
        above = parents.get(above, "")
    if above:
        return places[above]
    inside = [places[b.id] for b in blocks if b.parent == name and b.id in places]
    return min(inside, key=lambda p: (p[1], p[0]), default=(0.0, 0.0))
