"""The learning curve: how well so many trials rank unseen ones, the same unseen ones for every number of trials."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.analysis.controls import controls
from engine.analysis.damage_fit import choose_prior, fit_member
from engine.analysis.fitting import KINDS, fit_network, offered
from engine.analysis.predictor import Kind
from engine.analysis.ranking import Quality, quality
from engine.analysis.training import Epoch, Training
from engine.analysis.trials import Floats, Ints, Member, TrialTable, folds, subset
from engine.core.jsonrecord import from_json, to_json
from engine.providers.partial import Partial
from engine.providers.progress import Progress

SIZES = (50, 100, 200, 400)
VERSION = 2  # of the figures: ranked within one preset


def learning_curve(table: TrialTable, kept: Path | None, about: dict[str, Any], training: Training | None = None,
                   sizes: Sequence[int] = SIZES, kinds: Sequence[Kind] = KINDS
                   ) -> Generator[Progress, None, dict[int, dict[str, Quality]]]:
    """Number of trials -> name -> held-out figures; every size learns from the first so many of each training fold.

    Args:
        table: all trials drawn at random.
        kept: file of finished sizes, to resume.
        about: what determines the trials; another file is refused.
        training: of the networks.
        sizes: numbers of trials; those larger than a training fold are left out.
        kinds: beside the controls.
    """
    training, kinds = training or Training(), offered(table, kinds)
    splits = folds(len(table))
    partial = Partial(kept, {"version": VERSION, "trials": len(table), "formula": table.formula, **about,
                             "training": to_json(training), "kinds": [str(k) for k in kinds]})
    found = {int(r["size"]): {k: from_json(Quality, v) for k, v in r["figures"].items()} for r in partial.records}
    wanted = [n for n in sizes if n <= min(len(train) for train, _ in splits)]
    begin, done = time.perf_counter(), 0
    todo = [n for n in wanted if n not in found]
    for size in todo:
        held: dict[str, Floats] = {}
        for number, (train, test) in enumerate(splits):
            some = np.sort(np.random.default_rng([size, number]).permutation(train)[:size])
            members = yield from _members(table, some, training, number, kinds, size)
            for name, member in members.items():
                held.setdefault(name, np.zeros(len(table)))[test] = member.predict(table.picks[test])
            done += size
            left = (time.perf_counter() - begin) / done * (len(splits) * sum(todo) - done)
            yield Progress(f"{size} trials, fold {number + 1}", len(splits) * todo.index(size) + number + 1,
                           len(splits) * len(todo), left)
        found[size] = {name: quality(values, table.target, table.bits, table.presets) for name, values in held.items()}
        partial.add({"size": size, "figures": to_json(found[size])})
    return {size: found[size] for size in wanted}


def _members(table: TrialTable, train: Ints, training: Training, number: int, kinds: Sequence[Kind],
             size: int) -> Generator[Progress, None, dict[str, Member]]:
    part = subset(table, train)
    members = controls(part, number)
    prior = choose_prior(part, number) if {Kind.DAMAGE, Kind.GUIDED} & set(kinds) else None
    if Kind.DAMAGE in kinds:
        members[str(Kind.DAMAGE)] = fit_member(part, number, prior)
    if Kind.ANCHORED in kinds:
        members[str(Kind.ANCHORED)] = fit_member(part, number, choose_prior(part, number, anchored=True))
    for kind in (Kind.GNN, Kind.GUIDED):
        if kind in kinds:
            steps = fit_network(table, train, training, number, prior if kind is Kind.GUIDED else None)
            while True:
                try:
                    epoch: Epoch = next(steps)
                except StopIteration as end:
                    members[str(kind)] = end.value
                    break
                if epoch.number % 20 == 0:
                    yield Progress(f"{size} trials, {kind}, fold {number + 1}, epoch {epoch.number}", 0, 0)
    return members
