"""Another round of trials where it matters: recipes around the best ones so far, at sizes spread over a range.

Each draw solves the allocation for a random budget after shaking every damage by a log-normal factor, so that what
is uncertain is tried both ways (Thompson sampling in spirit). They teach the predictor about recipes unlike random
ones; held-out figures leave them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.advisor import Advisor
from engine.allocate.path import lagrangian
from engine.allocate.problem import Limits, layer_problem
from engine.core.record import Scores
from engine.core.seeds import derive
from engine.evidence.studied import NEAR
from engine.live.cancel import Cancel
from engine.study.job import Job
from engine.study.runner import Plan, Record, executor, measure_draws
from engine.study.sampling import LAYER, Draw
from engine.study.storage import read_study

LOW_BITS, HIGH_BITS = 2.75, 4.25
SHAKE = 0.5  # deviation of the logarithm of a damage


def near_draws(advisor: Advisor, count: int, round_number: int, seed: int = 0) -> list[Draw]:
    """So many recipes around the advisor's best, between `LOW_BITS` and `HIGH_BITS` stored bits per weight.

    Args:
        advisor: of the trials so far.
        count: how many.
        round_number: 1, 2, ...; becomes part of the preset's name.
        seed: of budgets and shaking.
    """
    structure, limits = advisor.structure, Limits(options=advisor.options(), keep_untouched=False)
    weights = sum(layer.weights for layer in structure.layers)
    draws = []
    for number in range(count):
        rng = np.random.default_rng(derive(NEAR, round_number, seed, number))
        scores = shaken(advisor.scores, SHAKE, rng)
        budget = int(rng.uniform(LOW_BITS, HIGH_BITS) * weights / 8)
        problem = layer_problem(structure, scores, budget, limits)
        draws.append(Draw(f"{NEAR}:{round_number}", seed, number, LAYER, dict(lagrangian(problem).recipe.options)))
    return draws


def shaken(scores: Scores, deviation: float, rng: np.random.Generator) -> Scores:
    """The same scores, every damage times a log-normal factor of this deviation."""
    return replace(scores, layers={
        name: {option: damage * float(np.exp(deviation * rng.normal())) for option, damage in row.items()}
        for name, row in scores.layers.items()})


def measure_near(db: str | Path, source: str, draws: list[Draw], cancel: Cancel | None = None) -> Iterator[Record]:
    """Measure draws into the study they were learned from, with its own images and settings (one thread).

    Raises:
        StudyError: the file is being written, or another machine's.
    """
    with read_study(db) as study:
        protocol = study.protocol
        environments = list(study.environments().values())
    threads = environments[-1].threads if environments else 1
    options = tuple(sorted({str(o) for d in draws for o in d.options.values()}))
    job = Job(source, protocol.images, protocol.steps, protocol.guidance, threads=threads, options=options)
    with executor(Plan(job, len(draws))) as bench:
        yield from measure_draws(db, draws, bench, cancel)
