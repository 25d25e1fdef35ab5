"""A whole fit: the same folds for everyone, nothing tested that was learned from, and training itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.analysis.damage_fit import Prior, fit_with
from engine.analysis.features import with_damage
from engine.analysis.fitting import KINDS, _on_scale, fit_predictor, fitted, offered
from engine.analysis.formula import BitsTerm
from engine.analysis.network import Network
from engine.analysis.planted import Plan, measure, plant
from engine.analysis.predictor import GnnMember, Kind, Predictor
from engine.analysis.ranking import spearman
from engine.analysis.report import report_of
from engine.analysis.training import (
    Epoch,
    Ranked,
    Training,
    frame_of,
    index_of,
    predict_network,
    shape_of,
    train_network,
)
from engine.analysis.trials import Labelled, TrialTable, anchor_of, folds, subject_of, subset, trial_table
from engine.core.errors import InputError
from engine.core.option import Option

SMALL = Training(epochs=3, hidden=8, batch=32, patience=3)


def returned(steps: Iterator[Epoch], seen: list[Epoch] | None = None) -> Network:
    """The network that training ends with."""
    while True:
        try:
            epoch = next(steps)
        except StopIteration as end:
            assert isinstance(end.value, Network)
            return end.value
        if seen is not None:
            seen.append(epoch)


def test_the_report_holds_every_kind_beside_the_three_controls(predictor: Predictor, small: TrialTable) -> None:
    report = predictor.report
    assert set(report.target) == {"average bits", "weight error", "ridge", "damage", "gnn", "guided", "blend"}
    assert {q.trials for q in report.target.values()} == {len(small)} == {report.trials}
    assert report.folds == 5
    assert report.quality == {}  # the target has no term in bits
    for hops in report.hops.values():
        assert len(hops) == 6  # hops 0 to 4 and all parts together
        assert all(-1 <= h <= 1 for h in hops)
    assert set(report.hops) == set(report.hop_target) == {"gnn", "guided"}
    assert report.hop_quality == {}
    for kind, each in report.hop_target.items():
        assert len(each) == len(report.hops[kind])
        assert all(q.trials == len(small) for q in each)
    assert predictor.kind == max((Kind(k) for k in report.target if k in tuple(Kind)),
                                 key=lambda k: report.target[k].spearman_in_bins or 0)


def test_hop_scores_are_held_out_and_on_the_targets_scale() -> None:
    """Norms of other scales and signs, as different folds' networks have them, become one scale; and the line comes
    from the training trials alone."""
    rng = np.random.default_rng(0)
    target = rng.normal(size=40)
    train, test = np.arange(30), np.arange(30, 40)
    norms = np.stack([5 + 0.01 * target, 100 - 3 * target, np.full(40, 2.0)])
    found = _on_scale(norms, target, train)
    assert found[:2] == pytest.approx(np.stack([target, target]))
    assert found[2] == pytest.approx(np.full(40, target[train].mean()))
    spoiled = target.copy()
    spoiled[test] = 1000.0
    assert _on_scale(norms, spoiled, train) == pytest.approx(found)


def test_hop_figures_hold_the_quality_part_too(tiny: TrialTable) -> None:
    labels = tiny.target
    priced = replace(tiny, target=labels - 3 * tiny.bits, formula="psnr - 3*bits",
                     term=BitsTerm("psnr - 3*bits", {"psnr": 0.0}, 0.0))
    exact = np.stack([priced.target, -priced.target])
    found = report_of(priced, {"x": priced.target}, 5, {"gnn": (1.0, -1.0)}, ("x",), {"gnn": exact})
    assert [q.spearman for q in found.hop_target["gnn"]] == pytest.approx([1.0, -1.0])
    assert found.hop_quality["gnn"][0].spearman == pytest.approx(1.0)
    assert found.hop_quality["gnn"][0].mae == pytest.approx(0.0, abs=1e-9)
    assert np.allclose(priced.quality, labels)


def test_it_beats_the_controls_within_bins(predictor: Predictor) -> None:
    figures = predictor.report.target
    best = figures[predictor.kind].spearman_in_bins
    assert best is not None
    assert best > 0.6
    assert all(best > (figures[c].spearman_in_bins or 0) for c in ("average bits", "weight error", "ridge"))


def test_networks_learn_from_the_graph(predictor: Predictor) -> None:
    figures = predictor.report.target
    assert figures["gnn"].spearman > 0.5
    assert figures["guided"].spearman > 0.95


def test_a_guided_network_begins_as_the_additive_model(tiny: TrialTable) -> None:
    """Before it has learned anything; and what comes back is never worse on the trials it was stopped on."""
    model = fit_with(tiny, Prior())
    told = replace(tiny.subject, table=with_damage(tiny.subject.table, tiny.subject.graph, model.damage))
    torch.manual_seed(0)
    network = Network(shape_of(told, 8))
    network.follow([float(x) for x in model.curve], len(told.graph.choices))
    found = predict_network(network, frame_of(told), index_of(told, tiny.picks))
    assert found == pytest.approx(model.predict(tiny.picks), rel=1e-4)
    alone = network.eval()(torch.from_numpy(told.table.rows[index_of(told, tiny.picks[:1])[:, 0]]).float(),
                           torch.from_numpy(told.graph.edges))
    assert float(alone.detach()) == pytest.approx(found[0], rel=1e-4)
    held = np.arange(30, 40)
    steps = train_network(replace(tiny, subject=told), tiny.target, np.arange(30), held,
                          replace(SMALL, rate=0.5), 0, [float(x) for x in model.curve])
    network = returned(steps)
    learned = predict_network(network, frame_of(told), index_of(told, tiny.picks[held]))
    assert np.abs(learned - tiny.target[held]).mean() <= np.abs(found[held] - tiny.target[held]).mean() + 1e-4


@pytest.mark.slow
def test_the_quality_part_is_reported_where_bits_have_a_price() -> None:
    truth = plant(Plan(blocks=2), 0)
    trials = measure(truth, 40, 3)
    table = trial_table(subject_of(truth.structure, truth.errors, trials), trials, "psnr - 3*bits")
    found = fitted(fit_predictor(table, SMALL, kinds=[Kind.DAMAGE, Kind.GNN]))
    assert set(found.report.quality) == set(found.report.target) == {"average bits", "weight error", "ridge", "damage",
                                                                     "gnn", "blend"}
    # The price is known exactly: what is not learned from the labels has no error.
    for kind in ("damage", "gnn", "blend"):
        assert found.report.quality[kind].mae == pytest.approx(found.report.target[kind].mae)
    (member, *_) = found.networks()
    gap = member.predict(table.picks) - member.quality(table.picks)
    assert np.diff(gap) == pytest.approx(-3 * np.diff(table.bits))


def test_an_anchored_model_starts_from_layers_measured_alone() -> None:
    truth = plant(Plan(blocks=3, detail=1.0), 4)
    trials = measure(truth, 30, 3)
    blind = trial_table(subject_of(truth.structure, truth.errors, trials), trials, "psnr")
    table = trial_table(subject_of(truth.structure, truth.errors, trials, truth.damage), trials, "psnr")
    found = fitted(fit_predictor(table, kinds=[Kind.DAMAGE, Kind.ANCHORED]))
    figures = found.report.target
    assert figures["anchored"].mae < 0.8 * figures["damage"].mae  # 30 trials alone teach little
    assert figures["measured alone"].mae < figures["weight error"].mae
    assert (found.kind, found.learned) == (Kind.ANCHORED, Kind.DAMAGE)
    names, column = table.subject.graph.choices, table.subject.space.index(Option("uaq", 3))
    planted = np.array([truth.damage[n]["uaq-3"] for n in names])
    assert spearman(found.additive.damage[:, column], planted) > 0.9
    # Without layers measured alone there is no anchored kind.
    assert offered(blind, KINDS) == [k for k in offered(table, KINDS) if k is not Kind.ANCHORED] != []


def test_an_anchor_must_cover_every_option(tiny: TrialTable) -> None:
    graph, space = tiny.subject.graph, tiny.subject.space
    whole = {n: {str(o): float(space.errors[c, k]) for k, o in enumerate(space.options) if space.offered[c, k]}
             for c, n in enumerate(graph.choices)}
    anchor = anchor_of(graph, space, whole)
    assert anchor is not None
    assert (np.isnan(anchor) == ~space.offered).all()
    assert (anchor[:, -1] == 0).all()
    assert anchor[space.offered & (anchor > 0)].mean() == pytest.approx(1.0)
    assert anchor_of(graph, space, {n: row for n, row in whole.items() if n != graph.choices[0]}) is None
    assert anchor_of(graph, space, {n: dict.fromkeys(row, 0.0) for n, row in whole.items()}) is None


def test_labels_of_a_test_fold_do_not_reach_its_prediction(tiny: TrialTable) -> None:
    _, test = folds(len(tiny))[2]
    changed = tiny.target.copy()
    changed[test] += np.random.default_rng(0).normal(size=len(test))
    one, two = (fitted(fit_predictor(t, SMALL, [Kind.DAMAGE, Kind.GNN])) for t in (tiny, replace(tiny, target=changed)))
    for kind in (Kind.RIDGE, Kind.DAMAGE, Kind.GNN):
        a, b = one.members[kind], two.members[kind]
        assert a[2].predict(tiny.picks[test]) == pytest.approx(b[2].predict(tiny.picks[test]), abs=1e-6)
        assert np.abs(a[0].predict(tiny.picks) - b[0].predict(tiny.picks)).max() > 1e-6


@pytest.mark.slow
def test_trials_near_the_best_are_learned_from_and_reported_apart(tiny: TrialTable) -> None:
    near = list(range(0, len(tiny), 3))
    found = fitted(fit_predictor(tiny, SMALL, [Kind.DAMAGE], near=near))
    assert found.report.trials == len(tiny) - len(near)
    assert set(found.reach.near_noise) == {"ridge", "damage"}
    own = np.sqrt(((found.predict(tiny.picks[near]).mean - tiny.target[near]) ** 2).mean())
    assert found.reach.near_noise["damage"] > own  # they were asked of members that had not seen them
    rest = np.setdiff1d(np.arange(len(tiny)), near)
    without = fitted(fit_predictor(subset(tiny, rest), SMALL, [Kind.DAMAGE]))
    assert found.report.target["damage"].mae < without.report.target["damage"].mae * 1.2
    assert found.support.sum() == len(tiny) * tiny.picks.shape[1]


def test_a_fit_says_how_far_it_is_and_can_be_repeated(tiny: TrialTable) -> None:
    steps = list(fit_predictor(tiny, SMALL, [Kind.GNN]))
    epochs = [s for s in steps if isinstance(s, Epoch)]
    assert {e.fold for e in epochs} == set(range(5))
    assert all(e.of == SMALL.epochs for e in epochs)
    again = fitted(fit_predictor(tiny, SMALL, [Kind.GNN]))
    first = steps[-1]
    assert isinstance(first, Predictor)
    assert (first.predict(tiny.picks, Kind.GNN).mean == again.predict(tiny.picks, Kind.GNN).mean).all()


def test_training_returns_the_network_of_least_validation_error(tiny: TrialTable) -> None:
    target = (tiny.target - tiny.target.mean()) / tiny.target.std()
    fit, held = np.arange(0, 30), np.arange(30, 40)
    settings = Training(epochs=6, hidden=8, batch=32, rate=0.02)
    steps = train_network(tiny, target, fit, held, settings)
    seen: list[Epoch] = []
    network = returned(steps, seen)
    error = ((predict_network(network, frame_of(tiny.subject), index_of(tiny.subject, tiny.picks[held]))
              - target[held]) ** 2).mean()
    assert error == pytest.approx(min(e.validation for e in seen), rel=1e-5)
    assert [e.best for e in seen] == [e.validation < min((p.validation for p in seen[:i]), default=np.inf)
                                      for i, e in enumerate(seen)]


def test_training_stops_when_nothing_gets_better(tiny: TrialTable) -> None:
    rng = np.random.default_rng(0)
    steps = train_network(tiny, rng.normal(size=len(tiny)), np.arange(0, 30), np.arange(30, 40),
                          Training(epochs=60, hidden=8, batch=32, patience=2, rate=0.02))
    assert len(list(steps)) < 60


def test_hops_can_be_ranked_as_in_the_paper(tiny: TrialTable) -> None:
    found = fitted(fit_predictor(tiny, replace(SMALL, ranked=Ranked.HOPS), [Kind.GNN]))
    (member, *_) = found.networks()
    assert member.trust.shape == (5,)


def test_features_of_training_are_those_of_scoring(predictor: Predictor, small: TrialTable) -> None:
    """The first hop of a recipe in training is, node by node, what single options are scored by."""
    member = predictor.members[Kind.GUIDED][0]
    assert isinstance(member, GnnMember)
    frame, index = frame_of(member.subject), index_of(member.subject, small.picks[:5])
    with torch.no_grad():
        in_training = copy.deepcopy(member.network).eval().hops(frame.rows, index, frame.wires, 0)[0]
        alone = member.network.encoder(torch.from_numpy(member.subject.table.rows).float())
    for node, choice in enumerate(member.subject.graph.choice_of):
        for t in range(5):
            row = member.subject.table.row_of[node, small.picks[t, max(choice, 0)]]
            assert torch.equal(in_training[node, t], alone[row])
    # and the predictor's own subject differs from a guided member's by the damage columns alone
    width = predictor.subject.table.rows.shape[1]
    assert (member.subject.table.rows[:, :width] == predictor.subject.table.rows).all()
    assert (member.subject.table.row_of == predictor.subject.table.row_of).all()


def test_a_predictor_without_networks_says_so() -> None:
    truth = plant(Plan(blocks=2), 0)
    trials = measure(truth, 20, 3)
    table = trial_table(subject_of(truth.structure, truth.errors, trials), trials, "psnr")
    found = fitted(fit_predictor(table, kinds=[]))
    assert found.kind is Kind.RIDGE
    with pytest.raises(InputError, match="holds no such networks"):
        found.networks()


def test_options_seldom_tried_are_unsupported() -> None:
    truth = plant(Plan(blocks=2), 0)
    trials = [Labelled({**t.options}, t.labels) for t in measure(truth, 24, 0)]
    table = trial_table(subject_of(truth.structure, truth.errors, trials), trials, "psnr")
    found = fitted(fit_predictor(table, kinds=[]))
    strange = np.full((1, table.picks.shape[1]), -1)  # untouched, which no trial held
    assert found.predict(strange).unsupported[0] == 1.0
    assert found.predict(table.picks[:1]).unsupported[0] < 0.7
