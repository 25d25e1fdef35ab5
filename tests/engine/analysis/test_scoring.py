"""Scores from embeddings: cut-out neighbourhoods against the whole graph, exhaustive against climbed, and as tables."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.analysis.block_table import block_damage, block_table
from engine.analysis.features import node_rows
from engine.analysis.predictor import Kind, Predictor
from engine.analysis.scoring import CONTEXTS, BlockScores, block_scores, operation_scores
from engine.analysis.training import frame_of, index_of
from engine.analysis.trials import TrialTable
from engine.core.option import Option

FOUR = (Option("uaq", 3), Option("uaq", 4))


@pytest.fixture(scope="module")
def blocks(predictor: Predictor, small: TrialTable) -> list[BlockScores]:
    return list(block_scores(predictor, small.picks, options=FOUR))


def test_every_layer_is_in_one_block_and_every_assignment_is_scored(predictor: Predictor,
                                                                    blocks: list[BlockScores]) -> None:
    assert sorted(n for b in blocks for n in b.layers) == sorted(predictor.subject.graph.choices)
    for block in blocks:
        assert block.exhaustive
        assert set(block.candidates) == set(itertools.product(FOUR, repeat=len(block.layers)))
        assert np.isfinite(block.scores).all()


def test_a_score_is_that_of_the_whole_graph(predictor: Predictor, small: TrialTable,
                                            blocks: list[BlockScores]) -> None:
    """A root's k-hop embedding reads k hops; scoring cuts the rest off, and nothing may change by that."""
    graph, space = predictor.subject.graph, predictor.subject.space
    chosen = np.random.default_rng(0).choice(len(small.picks), min(CONTEXTS, len(small.picks)), replace=False)
    members = predictor.networks()
    trust = {h: sum(float(m.trust[h]) for m in members) for h in range(5)}
    for part, block in zip(graph.parts, blocks, strict=True):
        if part.hops not in (1, 2):
            continue
        candidate = block.candidates[3 % len(block.candidates)]
        expected = 0.0
        for context in small.picks[chosen]:
            picks = context.copy()
            picks[list(part.choices)] = [space.index(o) for o in candidate]
            for m in members:
                frame = frame_of(m.subject)
                with torch.no_grad():
                    h = m.network.hops(frame.rows, index_of(m.subject, picks[None]), frame.wires, part.hops)[-1]
                norm = float(h[part.root, 0].abs().sum())
                share = float(m.trust[part.hops]) / trust[part.hops] if trust[part.hops] else 1 / len(members)
                expected += share * (norm - m.moments[part.hops, 0]) / m.moments[part.hops, 1] / len(chosen)
        assert block.scores[block.candidates.index(candidate)] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_isolated_blocks_are_scored_as_the_paper_does(predictor: Predictor, small: TrialTable,
                                                      blocks: list[BlockScores]) -> None:
    """A block that reads nothing outside itself scores the same cut out; one that does, does not."""
    graph = predictor.subject.graph
    alone = list(block_scores(predictor, small.picks, options=FOUR, isolated=True))
    assert [b.id for b in alone] == [b.id for b in blocks]
    for a, b in zip(alone, blocks, strict=True):
        assert a.scores == pytest.approx(b.scores, rel=1e-4, abs=1e-4)
    farther = tuple(replace(p, hops=p.hops + 1) for p in graph.parts)  # now every part reads what feeds it
    wider = replace(predictor, subject=replace(predictor.subject, graph=replace(graph, parts=farther)))
    alone = list(block_scores(wider, small.picks, options=FOUR, isolated=True))
    joined = list(block_scores(wider, small.picks, options=FOUR))
    fed = {p.id for p in graph.parts if any(b in p.nodes and a not in p.nodes for a, b in graph.edges.T.tolist())}
    assert fed
    for a, b in zip(alone, joined, strict=True):
        assert (a.scores == pytest.approx(b.scores, rel=1e-4, abs=1e-4)) == (a.id not in fed)


def test_climbing_finds_nearly_what_trying_all_finds(predictor: Predictor, small: TrialTable,
                                                     blocks: list[BlockScores]) -> None:
    few = list(block_scores(predictor, small.picks, options=FOUR, most=8))
    for quick, full in zip(few, blocks, strict=True):
        if quick.exhaustive:
            continue
        known = dict(zip(full.candidates, full.scores, strict=True))
        assert all(known[c] == pytest.approx(s, abs=1e-4) for c, s in zip(quick.candidates, quick.scores, strict=True))
        assert max(quick.scores) >= np.quantile(full.scores, 0.75)
    assert any(not b.exhaustive for b in few)


def test_more_bits_score_better(predictor: Predictor, blocks: list[BlockScores]) -> None:
    better = [dict(zip(b.candidates, b.scores, strict=True)) for b in blocks]
    wins = [s[(FOUR[1],) * len(b.layers)] > s[(FOUR[0],) * len(b.layers)] for s, b in zip(better, blocks, strict=True)]
    assert np.mean(wins) > 0.7
    layers = operation_scores(predictor).layers
    assert np.mean([row["uaq-4"] < row["uaq-3"] for row in layers.values()]) > 0.8
    assert min(v for row in layers.values() for v in row.values()) == 0.0


def test_kinds_are_scored_apart(predictor: Predictor) -> None:
    assert operation_scores(predictor, Kind.GNN).layers != operation_scores(predictor, Kind.GUIDED).layers


def test_blocks_as_a_table(predictor: Predictor, blocks: list[BlockScores]) -> None:
    scores = block_table(predictor, blocks)
    assert scores.provider == "gnn-block"
    assert all(set(row) == {"uaq-3", "uaq-4"} for row in scores.layers.values())
    assert all(min(row.values()) == 0 for row in scores.layers.values())  # the best assignment loses nothing
    parts = block_damage(blocks)
    assert scores.blocks["blocks.0"] == pytest.approx(parts["blocks.0"])
    assert scores.blocks["blocks.1"]["uaq-3"] == pytest.approx(
        parts["blocks.1.attn"]["uaq-3"] + parts["blocks.1.ff"]["uaq-3"])


def test_contexts_are_real_trials(predictor: Predictor, small: TrialTable) -> None:
    rows = node_rows(predictor.subject.table, predictor.subject.graph, small.picks[:CONTEXTS])
    assert rows.min() >= 0


def test_embeddings_are_those_that_rank_best_and_say_so(predictor: Predictor) -> None:
    """A guided network stopped at its additive start predicts well and has an embedding of chance."""
    assert {Kind.GNN, Kind.GUIDED} <= set(predictor.members)
    for kind in (Kind.GNN, Kind.GUIDED):
        other = Kind.GUIDED if kind is Kind.GNN else Kind.GNN
        report = replace(predictor.report, hops={str(kind): (0.7, 0.6, 0.6, 0.6, 0.6, 0.8),
                                                 str(other): (0.4, 0.9, 0.9, 0.9, 0.9, 0.5)})
        found = replace(predictor, report=report)
        assert found.embedding is kind
        scores = operation_scores(found)
        assert scores.layers == operation_scores(predictor, kind).layers
        assert scores.about["kind"] == kind
        figures = (report.quality and report.hop_quality) or report.hop_target
        best = figures[kind][0]
        assert scores.trust.rank_correlation == (best.spearman if best.spearman_in_bins is None
                                                 else best.spearman_in_bins)
