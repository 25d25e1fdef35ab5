"""Another round of trials where it matters: recipes around the best ones so far, at sizes spread over a range.

Each draw solves the allocation for a random budget after shaking every damage by a log-normal factor, so that what
is uncertain is tried both ways (Thompson sampling in spirit). They teach the predictor about recipes unlike random
ones; held-out figures leave them out. A round knows the trials of the rounds before it only, and its draws are kept, so
that an interrupted round goes on with the very recipes it began with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.advisor import Advisor
from engine.allocate.path import lagrangian
from engine.allocate.problem import Limits, layer_problem
from engine.analysis.fitting import KINDS, Fold
from engine.analysis.predictor import Kind, Predictor
from engine.analysis.training import Training
from engine.core.errors import StudyError
from engine.core.files import read_json, write_json
from engine.core.jsonrecord import to_json
from engine.core.option import parse_option
from engine.core.record import Scores
from engine.core.seeds import derive
from engine.core.sizes import full_bytes
from engine.evidence.learned import learn
from engine.evidence.studied import DEFAULT_FORMULA, NEAR, near_round, read_studied
from engine.live.cancel import Cancel
from engine.providers.progress import Progress
from engine.study.job import Job
from engine.study.runner import Plan, Record, executor, measure_draws
from engine.study.sampling import LAYER, Draw
from engine.study.storage import read_study

SEED = 0
LOW_BITS, HIGH_BITS = 2.75, 4.25
SHAKE = 0.5  # deviation of the logarithm of a damage


def near_draws(advisor: Advisor, count: int, round_number: int, seed: int = SEED) -> list[Draw]:
    """So many recipes around the advisor's best, between `LOW_BITS` (the least there is, if that is more) and
    `HIGH_BITS` stored bits per weight.

    Args:
        advisor: of the trials so far.
        count: how many.
        round_number: 1, 2, ...; becomes part of the preset's name.
        seed: of budgets and shaking.
    """
    structure, limits = advisor.structure, Limits(options=advisor.options(), keep_untouched=False)
    weights = sum(layer.weights for layer in structure.layers)
    smallest = layer_problem(structure, advisor.scores, full_bytes(structure), limits).smallest_bytes
    low = max(LOW_BITS, 8 * smallest / weights)  # where options take more than they are named after
    draws = []
    for number in range(count):
        rng = np.random.default_rng(derive(NEAR, round_number, seed, number))
        scores = shaken(advisor.scores, SHAKE, rng)
        budget = max(smallest, int(rng.uniform(low, HIGH_BITS) * weights / 8))
        problem = layer_problem(structure, scores, budget, limits)
        draws.append(Draw(f"{NEAR}:{round_number}", seed, number, LAYER, dict(lagrangian(problem).recipe.options)))
    return draws


def drawn(db: Path, path: Path, count: int, number: int, *, formula: str = DEFAULT_FORMULA, source: str = "",
          training: Training | None = None, kinds: Iterable[Kind] = KINDS) -> Iterator[Progress | list[Draw]]:
    """Progress, then the draws of one round: around the optimum of the kind that is best on held-out trials.

    Args:
        db: the study file.
        path: where the draws are kept; those that lie there are taken if they are of these very trials and settings.
        count: how many.
        number: of the round, from 1.
        formula, source: see `read_studied`.
        training: settings of networks.
        kinds: of predictors to choose from.

    Raises:
        StudyError, InputError: the study cannot be used, or the file of draws is damaged; one sentence.
    """
    kinds = tuple(kinds)
    with read_study(db) as study:
        known = sorted({t.preset for t in study.trials() if near_round(t.preset) < number})
    studied = read_studied(db, formula, model=source, presets=known)
    about = {"digest": studied.digest, "count": count, "round": number, "kinds": [str(k) for k in kinds],
             "training": to_json(training or Training())}
    kept = read_json(path, StudyError) if path.is_file() else {}
    if kept.get("about") == about:
        yield [Draw(f"{NEAR}:{number}", SEED, i, LAYER, {n: parse_option(o) for n, o in options.items()})
               for i, options in enumerate(kept["draws"])]
        return
    for step in learn(studied, training, kinds):
        if isinstance(step, Predictor):
            draws = near_draws(Advisor(step), count, number)
            write_json(path, {"about": about, "kind": str(step.kind),
                              "draws": [{n: str(o) for n, o in d.options.items()} for d in draws]})
            yield draws
        else:
            fold = step.number - 1 if isinstance(step, Fold) else step.fold
            yield Progress(f"fitting before round {number}, fold {fold + 1}", 0, 0)


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
