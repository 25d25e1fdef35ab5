"""Topology, features and trial tables: derived from the graph, the same for training and scoring, bad input refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.analysis.features import node_rows, picks_of, stored_bits_of
from engine.analysis.planted import Plan, Truth, measure, plant
from engine.analysis.topology import HOPS, TYPES, topology
from engine.analysis.trials import Labelled, TrialTable, folds, hold_back, subject_of, trial_table
from engine.core.errors import InputError, StudyError
from engine.core.option import FP16, METHODS, Option
from engine.core.record import Scores
from engine.core.sizes import bits_per_weight


def test_parts_roots_and_hops_follow_from_the_graph(truth: Truth) -> None:
    graph = topology(truth.structure)
    parts = {p.id: p for p in graph.parts}
    assert sorted(c for p in graph.parts for c in p.choices) == list(range(len(graph.choices)))
    root = {p: (graph.node_ids[parts[p].root], parts[p].hops) for p in parts}
    assert root["blocks.1.attn"] == ("blocks.1.attn.out", 2)  # q -> attention -> out
    assert root["blocks.1.ff"] == ("blocks.1.ff.1", 1)
    assert root["blocks.0"] == ("blocks.0.conv2", 2)  # conv1 and the time projection meet in an add before conv2
    assert root["conv_in"] == ("conv_in", 0)
    assert len(graph.roots) == HOPS + 1
    assert len(graph.roots[0]) == len(graph.choices)
    assert [graph.node_ids[i] for i in graph.roots[1]] == [f"blocks.{i}.ff.1" for i in (1, 3, 5, 7)]
    assert graph.roots[3] == ()
    assert graph.ranked_hops == (0, 1, 2, 4)


def test_codes_tell_places_apart(truth: Truth) -> None:
    graph = topology(truth.structure)
    code = dict(zip(graph.node_ids, graph.codes.tolist(), strict=True))
    assert code["blocks.1.attn.q"][2] == 1
    assert code["blocks.1.ff.0"][2] == 2
    assert code["blocks.1.attn.q"][3] == code["blocks.3.attn.q"][3] != code["blocks.1.attn.k"][3]
    assert code["blocks.1.attn.q"][1] != code["blocks.3.attn.q"][1]
    assert TYPES[code["blocks.1/add0"][3]] == "add"
    assert all((np.array(c) < graph.sizes).all() for c in code.values())


def test_tied_copies_share_a_choice() -> None:
    made = plant(Plan(blocks=2), 0).structure
    layers = tuple(replace(x, tie="blocks.0.conv1") if x.name == "blocks.0.conv2" else x for x in made.layers)
    graph = topology(replace(made, layers=layers))
    assert "blocks.0.conv2" not in graph.choices
    at = dict(zip(graph.node_ids, graph.choice_of, strict=True))
    assert at["blocks.0.conv2"] == at["blocks.0.conv1"] == graph.choices.index("blocks.0.conv1")


def test_features_hold_what_they_say(table: TrialTable, truth: Truth) -> None:
    subject = table.subject
    node = subject.graph.node_ids.index("blocks.1.attn.q")
    choice = subject.graph.choices.index("blocks.1.attn.q")
    option = Option("kmeans_c", 3)
    row = subject.table.rows[subject.table.row_of[node, subject.space.index(option)]]
    part = {name: row[a:b] for name, (a, b) in subject.table.groups.items()}
    assert part["method"].argmax() == 1 + list(METHODS).index("kmeans_c")
    assert part["method"].sum() == part["bits"].sum() == part["type"].sum() == 1
    error = truth.errors.layers["blocks.1.attn.q"]["kmeans_c-3"]
    assert part["error"][0] == pytest.approx(10 * error)
    sizes = subject.space.sizes[choice]
    assert 4 * part["reduction"][0] == pytest.approx(sizes[-1] / sizes[subject.space.index(option)])
    junction = subject.table.rows[subject.table.row_of[subject.graph.node_ids.index("blocks.1/add0"), 0]]
    assert junction[subject.table.groups["method"][0]] == 1
    assert junction[slice(*subject.table.groups["error"])].sum() == 0


def test_every_pick_changes_its_own_nodes_features_and_no_others(table: TrialTable) -> None:
    """No layer's option is invisible, and none is seen in another's place (slips 6 and 7 of the released code)."""
    subject = table.subject
    base = table.picks[:1]
    rows = subject.table.rows[node_rows(subject.table, subject.graph, base)[0]]
    for choice in range(len(subject.graph.choices)):
        changed = base.copy()
        changed[0, choice] = next(k for k in np.flatnonzero(subject.space.offered[choice]) if k != base[0, choice])
        other = subject.table.rows[node_rows(subject.table, subject.graph, changed)[0]]
        differs = np.flatnonzero((rows != other).any(1))
        assert differs.tolist() == np.flatnonzero(subject.graph.choice_of == choice).tolist()


def test_bits_are_those_of_the_sizes(table: TrialTable, truth: Truth) -> None:
    recipe = {name: table.subject.space.options[k]
              for name, k in zip(table.subject.graph.choices, table.picks[0], strict=True)}
    assert table.bits[0] == pytest.approx(bits_per_weight(truth.structure, recipe))
    silent = picks_of(table.subject.space, table.subject.graph, [{}])
    assert set(silent[0]) == {table.subject.space.index(FP16)}
    assert stored_bits_of(table.subject.space, silent)[0] == pytest.approx(16)


def test_quality_is_the_target_without_bits(truth: Truth) -> None:
    trials = measure(truth, 40, 3)
    subject = subject_of(truth.structure, truth.errors, trials)
    plain, priced = trial_table(subject, trials, "psnr"), trial_table(subject, trials, "psnr - 3*bits")
    assert plain.quality == pytest.approx(plain.target)
    assert priced.quality is not None
    assert np.diff(priced.quality) == pytest.approx(np.diff(plain.target))
    assert trial_table(subject, trials, "psnr / bits").quality is None


def test_folds_are_a_partition_and_validation_comes_from_training() -> None:
    parts = folds(103)
    assert sorted(np.concatenate([test for _, test in parts])) == list(range(103))
    for train, test in parts:
        fit, held = hold_back(train, 0)
        assert not set(held) & set(test)
        assert sorted([*fit, *held]) == sorted(train)


def _relabelled(trials: list[Labelled], value: float) -> list[Labelled]:
    return [Labelled(t.options, {"psnr": value}) for t in trials]


def test_bad_studies_get_one_sentence(truth: Truth) -> None:
    trials = measure(truth, 24, 4)
    subject = subject_of(truth.structure, truth.errors, trials)
    cases = [
        (trials[:4], "psnr", StudyError, "4 trials are too few for 5 folds"),
        (_relabelled(trials, 7.0), "psnr", StudyError, "is the same in all 24 trials"),
        (_relabelled(trials, float("nan")), "psnr", StudyError, "is no number in 24 of 24 trials"),
        ([*trials[:23], Labelled(trials[23].options, {})], "psnr", StudyError, "is no number in 1 of 24"),
        (trials, "fid", InputError, "names 'fid', which was not measured; there is bits, psnr"),
        (trials, "psnr +", InputError, "lacks a number"),
        ([Labelled({"nowhere": FP16}, {"psnr": 1.0})] * 20, "psnr", StudyError, "nowhere"),
    ]
    for rows, formula, error, words in cases:
        with pytest.raises(error, match=words) as refused:
            trial_table(subject, rows, formula)
        assert str(refused.value).count("\n") == 0


def test_missing_weight_errors_are_refused(truth: Truth) -> None:
    table = {name: dict(row) for name, row in truth.errors.layers.items()}
    table["conv_in"]["uaq-3"] = float("nan")
    with pytest.raises(StudyError, match="of conv_in hold NaN"):
        subject_of(truth.structure, Scores("weight-error", "", "", table))
    del table["conv_in"]
    with pytest.raises(StudyError, match="leave out conv_in"):
        subject_of(truth.structure, Scores("weight-error", "", "", table))
    del table["time.linear"]["uaq-3"]
    few = {**truth.errors.layers, "time.linear": table["time.linear"]}
    trials = [Labelled({"time.linear": Option("uaq", 3)}, {"psnr": float(i)}) for i in range(20)]
    with pytest.raises(StudyError, match="without a known weight error"):
        subject = subject_of(truth.structure, Scores("weight-error", "", "", few))
        node_rows(subject.table, subject.graph, trial_table(subject, trials, "psnr").picks)


def test_a_structure_without_graph_is_refused(truth: Truth) -> None:
    with pytest.raises(StudyError, match=r"lacks (all layers|conv_in)"):
        topology(replace(truth.structure, nodes=(), edges=()))
