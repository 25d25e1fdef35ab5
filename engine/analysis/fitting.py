"""Fit everything to one set of folds: controls, ridge, damage models, networks, and a blend of damage and network."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from engine.analysis.additive import distil
from engine.analysis.controls import controls
from engine.analysis.damage_fit import Prior, choose_prior, fit_expected, fit_member
from engine.analysis.features import with_damage
from engine.analysis.predictor import GnnMember, Kind, Predictor
from engine.analysis.ranking import spearman
from engine.analysis.reach import Reach, frontier
from engine.analysis.report import Report, report_of
from engine.analysis.training import (
    Epoch,
    Frame,
    Ranked,
    Training,
    frame_of,
    hop_norms,
    index_of,
    train_network,
)
from engine.analysis.trials import FOLDS, Floats, Ints, Member, TrialTable, folds, hold_back, subset

MOMENT_RECIPES = 64


@dataclass(frozen=True, slots=True)
class Fold:
    """Progress: everything but the networks is fitted for one fold."""

    number: int
    of: int


KINDS = (Kind.DAMAGE, Kind.ANCHORED, Kind.GNN, Kind.GUIDED)
NETWORKS = (Kind.GNN, Kind.GUIDED)


def fit_predictor(table: TrialTable, training: Training | None = None, kinds: Iterable[Kind] = KINDS,
                  about: Mapping[str, str] | None = None,
                  near: Sequence[int] = ()) -> Iterator[Fold | Epoch | Predictor]:
    """Progress records, then the predictor.

    Args:
        table: the trials.
        training: settings of the networks.
        kinds: what to fit besides the controls (ridge always is); with damage and networks also their blend. Anchored
            models are left out where no layer was measured alone.
        about: study, trials and the like, kept with the predictor.
        near: trials drawn around the best recipes: learned from, and left out of the report. Held out in turn like the
            others, they say how wrong forecasts of recipes like them are.
    """
    training, wanted = training or Training(), offered(table, kinds)
    held_out: dict[str, Floats] = {}
    members: dict[str, list[Member]] = {}
    hops: dict[str, list[list[float]]] = {}
    hop_scores: dict[str, Floats] = {}
    splits, beside = _splits(len(table), near), _near_tests(near)
    for number, (train, test) in enumerate(splits):
        asked = np.concatenate([test, beside[number]])
        part = subset(table, train)
        found: dict[str, Member] = controls(part, number)
        prior = choose_prior(part, number) if {Kind.DAMAGE, Kind.GUIDED} & set(wanted) else None
        if Kind.DAMAGE in wanted:
            found[Kind.DAMAGE] = fit_member(part, number, prior)
        if Kind.ANCHORED in wanted:
            found[Kind.ANCHORED] = fit_member(part, number, choose_prior(part, number, anchored=True))
        yield Fold(number + 1, FOLDS)
        for kind in NETWORKS:
            if kind in wanted:
                told = prior if kind is Kind.GUIDED else None
                member = yield from fit_network(table, train, training, number, told)
                found[kind] = member
                norms = _norms(member, table)
                hops.setdefault(str(kind), []).append([spearman(n, table.target[test]) for n in norms[:, test]])
                hop_scores.setdefault(str(kind), np.zeros_like(norms))[:, test] = _on_scale(
                    norms, table.target, train)[:, test]
        for name, model in found.items():
            held_out.setdefault(str(name), np.zeros(len(table)))[asked] = model.predict(table.picks[asked])
            members.setdefault(str(name), []).append(model)
    share, partner = 1.0, Kind.GNN
    networks = [kind for kind in NETWORKS if kind in wanted]
    if networks and Kind.DAMAGE in wanted:
        partner = min(networks, key=lambda kind: sum(_rmse(held_out[kind][t], table.target[t]) for _, t in splits))
        share, held_out[str(Kind.BLEND)] = _blend(held_out[Kind.DAMAGE], held_out[partner], table.target, splits)
        extra = np.concatenate(beside)
        held_out[str(Kind.BLEND)][extra] = share * held_out[Kind.DAMAGE][extra] + (1 - share) * held_out[partner][extra]
    candidates = tuple(str(kind) for kind in Kind if kind in held_out)
    tested = np.sort(np.concatenate([test for _, test in splits]))
    report = report_of(subset(table, tested), {name: found[tested] for name, found in held_out.items()}, FOLDS,
                       {k: tuple(map(float, np.mean(v, 0))) for k, v in hops.items()}, candidates,
                       {kind: found[:, tested] for kind, found in hop_scores.items()})
    noise = {name: _rmse(held_out[name][tested], table.target[tested]) for name in candidates}
    extra = np.concatenate(beside)
    near_noise = {name: _rmse(held_out[name][extra], table.target[extra]) for name in candidates if len(extra)}
    yield _predictor(table, members, (share, partner), noise, report, training, about or {},
                     reach_of(table, near, near_noise))


def reach_of(table: TrialTable, near: Sequence[int] = (), near_noise: Mapping[str, float] | None = None) -> Reach:
    """How good the trials of a table were by size, those drawn near the best told apart."""
    quality = table.target if table.quality is None else table.quality
    drawn = np.setdiff1d(np.arange(len(table)), np.array(sorted(near), np.int64))
    return Reach(frontier(table.bits[drawn], quality[drawn]), frontier(table.bits, quality), near_noise or {})


def offered(table: TrialTable, kinds: Iterable[Kind]) -> list[Kind]:
    """Those of the kinds that the trials' subject allows."""
    anchored = table.subject.anchor is not None
    return [kind for kind in KINDS if kind in set(kinds) and (anchored or kind is not Kind.ANCHORED)]


def _splits(trials: int, near: Sequence[int]) -> list[tuple[Ints, Ints]]:
    """(train, test) of every fold; of those near the best, all but the fold's own are in train and none in test."""
    kept = np.array(sorted(near), np.int64)
    base = np.setdiff1d(np.arange(trials), kept)
    return [(np.sort(np.concatenate([base[train], np.setdiff1d(kept, own)])), base[test])
            for (train, test), own in zip(folds(len(base)), _near_tests(near), strict=True)]


def _near_tests(near: Sequence[int]) -> list[Ints]:
    """Per fold, those of the trials near the best that it is asked about; none where there are too few to hold out."""
    kept = np.array(sorted(near), np.int64)
    if len(kept) < FOLDS:
        return [kept[:0]] * FOLDS
    return [kept[test] for _, test in folds(len(kept))]


def fitted(steps: Iterator[Fold | Epoch | Predictor]) -> Predictor:
    """Run a fit to its end and keep only the predictor."""
    for step in steps:
        if isinstance(step, Predictor):
            return step
    raise AssertionError("a fit ends with its predictor")


def fit_network(table: TrialTable, train: Ints, training: Training, number: int,
                prior: Prior | None = None) -> Generator[Epoch, None, GnnMember]:
    """One fold's network from the trials `train`, stopped early on a part of them.

    Args:
        table: all trials.
        train: indices to learn from.
        training: settings.
        number: of the fold.
        prior: with one, the network is told the additive damages fitted under it (to what it learns from, not to what
            it is stopped on) and begins as their model; None = it is not.
    """
    fit, held = hold_back(train, number)
    quality = table.target if table.quality is None else table.quality
    centre, spread = float(quality[train].mean()), float(quality[train].std()) or 1.0
    damage: Floats | None = None
    curve: tuple[float, ...] = ()
    if prior is not None:
        model = fit_member(subset(table, fit), number, prior).model
        offset, slope, exponent = (float(x) for x in model.curve)
        damage, curve = model.damage, ((offset - centre) / spread, slope / spread, exponent)
        told = with_damage(table.subject.table, table.subject.graph, damage)
        table = replace(table, subject=replace(table.subject, table=told))
    network = yield from train_network(table, (quality - centre) / spread, fit, held, training, number, curve)
    frame = frame_of(table.subject)
    norms = hop_norms(network, frame, index_of(table.subject, table.picks[held]))
    trust = np.array([max(0.0, spearman(n, table.target[held])) for n in norms])
    if training.ranked is Ranked.PARTS:
        trust[1:] = trust[-1]
    sample = index_of(table.subject, table.picks[fit[:MOMENT_RECIPES]])
    moments = _moments(network, frame, sample)
    return GnnMember(network, table.subject, damage, centre, spread, moments, trust[:-1], table.term)


@torch.no_grad()
def _moments(network: torch.nn.Module, frame: Frame, index: torch.Tensor) -> Floats:
    """Mean and deviation of the node norms at each hop over the nodes pooled there (the released code takes all
    nodes, section 7.3, slip 8), [hops, 2]."""
    found = []
    for h, roots in zip(network.hops(frame.rows, index, frame.wires), network.roots, strict=True):  # type: ignore[operator, arg-type]
        norms = (h[roots] if roots else h).abs().sum(-1)
        found.append((float(norms.mean()), float(norms.std()) or 1.0))
    return np.array(found)


def _norms(member: GnnMember, table: TrialTable) -> Floats:
    """[hops + 1, T], see `hop_norms`."""
    return hop_norms(member.network, frame_of(member.subject), index_of(member.subject, table.picks))


def _on_scale(norms: Floats, target: Floats, train: Ints) -> Floats:
    """Norms [hops + 1, T] as targets, each by its line of least squares over the training trials; a norm that hardly
    moves there says nothing and becomes their mean."""
    centre, mean = norms[:, train].mean(1, keepdims=True), target[train].mean()
    apart = norms[:, train] - centre
    scale = (apart**2).sum(1, keepdims=True)
    slope = (apart * (target[train] - mean)).sum(1, keepdims=True) / np.maximum(scale, 1e-12)
    found: Floats = mean + slope * (norms - centre)
    return found


def _blend(damage: Floats, network: Floats, target: Floats, splits: list[tuple[Ints, Ints]]) -> tuple[float, Floats]:
    """Share of the damage model from all held-out predictions; the held-out blend uses, per fold, the share that the
    other folds' predictions give."""
    blended, tested = np.zeros_like(target), np.concatenate([test for _, test in splits])
    for _, test in splits:
        rest = np.setdiff1d(tested, test)
        share = _share(damage[rest], network[rest], target[rest])
        blended[test] = share * damage[test] + (1 - share) * network[test]
    return _share(damage[tested], network[tested], target[tested]), blended


def _share(damage: Floats, network: Floats, target: Floats) -> float:
    """Least squares of target - network on damage - network, within 0 to 1."""
    apart = damage - network
    scale = float((apart**2).sum())
    return float(np.clip((apart * (target - network)).sum() / scale, 0, 1)) if scale else 0.5


def _rmse(predicted: Floats, target: Floats) -> float:
    return float(np.sqrt(((predicted - target) ** 2).mean()))


def _predictor(table: TrialTable, members: dict[str, list[Member]], blend: tuple[float, Kind],
               noise: dict[str, float], report: Report, training: Training,
               about: Mapping[str, str], reach: Reach) -> Predictor:
    kept = {name: tuple(found) for name, found in members.items() if name in tuple(Kind)}
    support = np.zeros(table.subject.space.offered.shape, np.int64)
    np.add.at(support, (np.arange(table.picks.shape[1])[None], table.picks), 1)
    anchored = report.chosen == Kind.ANCHORED
    additive = fit_expected(table, choose_prior(table, anchored=anchored))
    found = Predictor(table.subject, kept, *blend, Kind(report.chosen), additive, noise, table.formula, table.term,
                      support, report, replace(training, device="cpu"), reach, dict(about))
    # a damage model of all trials is additive already; anything else is boiled down to its likeness
    return found if found.kind in (Kind.DAMAGE, Kind.ANCHORED) else replace(found, additive=distil(found, table.picks))
