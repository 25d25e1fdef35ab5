"""Scores from the embeddings (Qua2SeDiMo section 4): every option of a layer, every joint assignment of a block.

score = sum over folds f of w_(f, k) * (L1 norm of the root's k-hop embedding - mu_(f, k)) / sigma_(f, k)
where w is the fold's share of trust: the rank correlation of that norm on its validation part. The paper scores a
block cut out of its graph, although the network never saw such a graph (section 7.3, slip 8); here the root keeps the
neighbours its embedding reads, at options of real trials. `isolated` cuts as the paper does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.analysis.additive import trust_of_norms
from engine.analysis.attention import Wiring, wiring
from engine.analysis.features import node_rows
from engine.analysis.predictor import LEAST_SUPPORT, GnnMember, Kind, Predictor
from engine.analysis.topology import Part, Topology
from engine.analysis.trials import Floats, Ints
from engine.core.option import Option
from engine.core.record import Scores

MOST_CANDIDATES = 6**5
CONTEXTS = 3
BATCH = 1024
UNIT = "standardised embedding norm below the best option"


@dataclass(frozen=True, slots=True)
class BlockScores:
    """All scored joint assignments of one part (the layers of one innermost block).

    Attributes:
        id: block id.
        layers: choice names.
        candidates: [n], one option per layer each.
        scores: [n], higher = better, in standard deviations.
        exhaustive: whether every assignment was scored.
    """

    id: str
    layers: tuple[str, ...]
    candidates: tuple[tuple[Option, ...], ...]
    scores: tuple[float, ...]
    exhaustive: bool


@dataclass(frozen=True, slots=True)
class _Ball:
    """What a root's k-hop embedding reads: nodes (the root first), edges among them, and their rows per context."""

    nodes: Ints
    wires: Wiring
    base: Ints  # [contexts, n]


def operation_scores(predictor: Predictor, kind: Kind | None = None) -> Scores:
    """Every option of every layer by itself: the hop-0 embedding depends on nothing else.

    Raises:
        InputError: the predictor holds no networks (of that kind).
    """
    graph, table = predictor.subject.graph, predictor.subject.table
    total = np.zeros(len(table.rows))
    kind = kind or predictor.embedding
    members = predictor.networks(kind)
    for member in members:
        rows = torch.from_numpy(member.subject.table.rows).float()
        with torch.no_grad():
            norms = member.network.encoder(rows).abs().sum(1).double().numpy()
        total += _weight(members, member, 0) * (norms - member.moments[0, 0]) / member.moments[0, 1]
    layers: dict[str, dict[str, float]] = {}
    for c, choice in enumerate(graph.choices):
        nodes = np.flatnonzero(graph.choice_of == c)
        offered = np.flatnonzero(predictor.subject.space.offered[c])
        score = total[table.row_of[nodes][:, offered]].mean(0)
        layers[choice] = {str(predictor.subject.space.options[k]): float(score.max() - s)
                          for k, s in zip(offered, score, strict=True)}
    return Scores("gnn-operation", predictor.subject.structure.identity, UNIT, layers,
                  trust=trust_of_norms(predictor, kind, 0), about={**predictor.about, "kind": str(kind)})


def block_scores(predictor: Predictor, trials: Ints, *, kind: Kind | None = None, most: int = MOST_CANDIDATES,
                 options: Sequence[Option] | None = None, isolated: bool = False,
                 seed: int = 0) -> Iterator[BlockScores]:
    """Joint assignments of every part, one record per part.

    Exhaustive up to `most` assignments; beyond, all recipes one step away are followed uphill from every uniform one,
    and all that was scored on the way is returned.

    Args:
        predictor: with networks.
        trials: [T, C] option columns; neighbours outside the block take options of a few of them.
        kind: which networks; default as `Predictor.networks`.
        most: assignments scored per part.
        options: what layers may take (those of the paper's six that a layer offers, say); None = all that trials held.
        isolated: score the block cut out of its graph, as the paper does.
        seed: picks the trials.
    """
    members, graph = predictor.networks(kind), predictor.subject.graph
    contexts = trials[np.random.default_rng(seed).choice(len(trials), min(CONTEXTS, len(trials)), replace=False)]
    for part in graph.parts:
        ball = _ball(predictor, part, contexts, isolated=isolated)
        columns = [_options(predictor, c, options) for c in part.choices]
        count = int(np.prod([len(o) for o in columns], dtype=np.float64))
        if count <= most:
            found = np.array(list(itertools.product(*columns)), np.int64)
            scores = _score(members, predictor, part, ball, found)
        else:
            found, scores = _climb(members, predictor, part, ball, columns, most)
        texts = predictor.subject.space.options
        yield BlockScores(part.id, tuple(graph.choices[c] for c in part.choices),
                          tuple(tuple(texts[k] for k in row) for row in found), tuple(map(float, scores)),
                          count <= most)


def _options(predictor: Predictor, choice: int, wanted: Sequence[Option] | None) -> list[int]:
    """Columns on offer for a layer (of the wanted ones) that enough trials held; all on offer where none was."""
    space = predictor.subject.space
    offered = np.flatnonzero(space.offered[choice])
    if wanted is not None:
        offered = np.array([k for k in offered if space.options[k] in wanted] or offered)
    seen = [int(k) for k in offered if predictor.support[choice, k] >= LEAST_SUPPORT]
    return seen or [int(k) for k in offered]


def _ball(predictor: Predictor, part: Part, contexts: Ints, *, isolated: bool) -> _Ball:
    """The root's in-neighbourhood of `part.hops` steps, and the part's own nodes."""
    graph = predictor.subject.graph
    inside = _reading(graph, part)
    kept = set(part.nodes) if isolated else {part.root, *inside}
    nodes = np.array([part.root, *sorted(kept - {part.root})])
    place = {int(n): i for i, n in enumerate(nodes)}
    edges = [(place[a], place[b]) for a, b in graph.edges.T.tolist() if a in place and b in place]
    wires = wiring(torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T, len(nodes))
    return _Ball(nodes, wires, node_rows(predictor.subject.table, graph, contexts)[:, nodes])


def _reading(graph: Topology, part: Part) -> set[int]:
    """Nodes within `part.hops` steps upstream of the root: all its embedding at that hop depends on."""
    sources: dict[int, list[int]] = {}
    for a, b in graph.edges.T.tolist():
        sources.setdefault(b, []).append(a)
    found, front = {part.root}, [part.root]
    for _ in range(part.hops):
        front = [a for node in front for a in sources.get(node, []) if a not in found]
        found.update(front)
    return found


def _score(members: Sequence[GnnMember], predictor: Predictor, part: Part, ball: _Ball, found: Ints) -> Floats:
    """[n] scores of assignments [n, layers of the part], averaged over the contexts."""
    row_of, graph = predictor.subject.table.row_of, predictor.subject.graph
    column = {c: i for i, c in enumerate(part.choices)}
    own = [(i, column[int(graph.choice_of[n])]) for i, n in enumerate(ball.nodes) if int(graph.choice_of[n]) in column]
    total = np.zeros(len(found))
    for base in ball.base:
        index = np.repeat(base[:, None], len(found), 1)
        for i, c in own:
            index[i] = row_of[ball.nodes[i], found[:, c]]
        total += _ensemble(members, index, ball.wires, part.hops)
    return total / len(ball.base)


@torch.no_grad()
def _ensemble(members: Sequence[GnnMember], index: Ints, wires: Wiring, hops: int) -> Floats:
    """[n] summed standardised norm of the root (node 0) over the folds."""
    parts = []
    tables = [torch.from_numpy(m.subject.table.rows).float() for m in members]
    for chunk in torch.split(torch.from_numpy(index), BATCH, 1):
        score = torch.zeros(chunk.shape[1], dtype=torch.float64)
        for m, rows in zip(members, tables, strict=True):
            norm = m.network.hops(rows, chunk, wires, hops)[-1][0].abs().sum(-1).double()
            score += _weight(members, m, hops) * (norm - m.moments[hops, 0]) / m.moments[hops, 1]
        parts.append(score.numpy())
    return np.concatenate(parts)


def _weight(members: Sequence[GnnMember], member: GnnMember, hop: int) -> float:
    """A fold's share: its trust in this hop, or all alike where none ranks anything."""
    total = sum(float(m.trust[hop]) for m in members)
    return float(member.trust[hop]) / total if total else 1 / len(members)


def _climb(members: Sequence[GnnMember], predictor: Predictor, part: Part, ball: _Ball, options: list[list[int]],
           most: int) -> tuple[Ints, Floats]:
    """Follow the best single change uphill from every uniform assignment; return all that was scored."""
    known: dict[tuple[int, ...], float] = {}

    def score(rows: list[tuple[int, ...]]) -> None:
        fresh = [r for r in dict.fromkeys(rows) if r not in known]
        if fresh:
            known.update(zip(fresh, _score(members, predictor, part, ball, np.array(fresh)), strict=True))

    starts = [tuple(k if k in o else o[0] for o in options) for k in dict.fromkeys(itertools.chain(*options))]
    score(starts)
    for start in starts:
        now = start
        while len(known) < most:
            near = [(*now[:i], k, *now[i + 1:]) for i, o in enumerate(options) for k in o if k != now[i]]
            score(near)
            best = max([now, *near], key=known.__getitem__)
            if best == now:
                break
            now = best
    return np.array(list(known)), np.array(list(known.values()))
