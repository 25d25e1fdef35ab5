"""`acceptance`: does MPQ-Diff's importance say what measuring says, and does it say it again on other pictures?

Spearman of importance (theta) and of what is made of it with measured one-layer damage, beside weight error, size
alone, a random order and what models fitted to random recipes say, each by the kind of model that was asked; then how
far three calibrations on other pictures agree with each other, in theta and in the bits that follow from it, and what
each of them took.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.allocate.allocators import allocate
from engine.allocate.budget import bits_budget
from engine.allocate.problem import Limits, layer_problem
from engine.analysis.ranking import spearman
from engine.bench.dmq import noted
from engine.bench.mpq import OPTIONS, USEFUL, named
from engine.calibrate.capture import CapturePlan
from engine.calibrate.files import Cost
from engine.calibrate.orthogonality import Orthogonality, score, useful_scores
from engine.calibrate.profile import ProfilePlan
from engine.core.errors import InputError
from engine.core.graph import Structure
from engine.core.recipe import Recipe
from engine.core.record import Scores
from engine.core.resident import forget_peak, peak_memory
from engine.evidence.agreement import agreements
from engine.live.model import Model, open_model
from engine.providers.files import find_scores
from engine.providers.weight_error import PROVIDER as WEIGHT_ERROR

SEEDS = 3
BITS = 3.5  # stored bits per weight at which recipes of different calibrations are compared
THETA, THETA_ERROR = "theta", "theta x error"
# fitted to random recipes: attributions of the additive model and of the guided network, and embeddings of the graph
# network (Qua2SeDiMo's); not the predictor in use, which may be anchored at layers measured alone: that agrees by
# construction
LEARNED = ("attribution-shapley", "attribution-integrated-gradients", "gnn-operation", "gnn-block")


def run(model: str = "emoji-unet", rounds: int = 64) -> dict[str, Any]:
    """Agreement and stability for a model with measured scores; `rounds` is pictures per calibration."""
    live = open_model(model)
    try:
        structure, found = live.structure, find_scores(live.structure)
        if WEIGHT_ERROR not in found:
            raise InputError(f"There are no weight errors of {model}; make them with python -m engine sensitivity "
                             f"{model} --provider weight-error.")
        if not any(s.provider.startswith("measured") for s in found.values()):
            raise InputError(f"No layer of {model} was measured alone; run python -m engine sensitivity {model} "
                             f"--provider measured.")
        seeds, costs = zip(*(calibrated(live, rounds, seed) for seed in range(SEEDS)), strict=True)
        errors = found[WEIGHT_ERROR]
        agreement = list(agreement_rows(structure, seeds[0], errors, found))
        return {"model": model, "n": rounds, "peer": "measured one-layer damage",
                "pictures of one seed": rounds, "median correlation, biased": seeds[0].biased_median,
                "median correlation, debiased": seeds[0].debiased_median,
                "left out for want of scores": ", ".join(absent(found)) or "none",
                "calibration": cost_rows(costs), "agreement with measured damage": agreement,
                f"agreement of {SEEDS} calibrations": stability_rows(structure, seeds, errors)}
    finally:
        live.close()


def absent(scores: Mapping[str, Scores]) -> list[str]:
    """Which of the fitted scores a model does not have."""
    return [name for name in LEARNED if name not in scores]


def calibrated(model: Model, images: int, seed: int) -> tuple[Orthogonality, Cost]:
    """Orthogonality on pictures of its own, and its seconds and peak megabytes with the pictures: seed k sees pictures
    k n to (k + 1) n of the calibration part."""
    plan = ProfilePlan(CapturePlan(images=images, first=seed * images))
    forget_peak()
    begun = time.perf_counter()
    found = [e for e in score(model, plan) if isinstance(e, Orthogonality)][-1]
    return found, (time.perf_counter() - begun, peak_memory() / 1e6)


def cost_rows(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """A row per calibration: seconds, and peak resident memory of the process while it ran."""
    return [{"seed": seed, "seconds": noted(seconds), "peak MB": noted(peak)}
            for seed, (seconds, peak) in enumerate(costs)]


def agreement_rows(structure: Structure, found: Orthogonality, errors: Scores,
                   scores: Mapping[str, Scores]) -> Iterator[dict[str, Any]]:
    """A row per measured table, option, level and score.

    Raises:
        InputError: nothing was measured.
    """
    measured = [s for s in scores.values() if s.provider.startswith("measured")]
    options = {o for s in measured for row in s.layers.values() for o in row}
    theta = found.importance(structure)
    plain = Scores(THETA, structure.identity, "importance", {n: dict.fromkeys(options, t) for n, t in theta.items()})
    useful = useful_scores(structure, found, errors)
    product = Scores(THETA_ERROR, structure.identity, useful.unit, useful.layers)
    learned = [replace(scores[name], provider=named(scores[name])) for name in LEARNED if name in scores]
    tables = agreements(structure, [plain, product, *learned], scores)
    if not tables:
        raise InputError(f"No layer of {structure.model} was measured alone; run python -m engine sensitivity "
                         f"{structure.model} --provider measured.")
    for table in tables:
        rows: Any = table["rows"]
        for row in rows:
            yield {"measured": table["measured"], "option": table["option"], "level": table["level"],
                   "score": row.name, "Spearman": f"{row.spearman:.3f} [{row.low:.3f}, {row.high:.3f}]", "n": row.n}


def stability_rows(structure: Structure, seeds: Sequence[Orthogonality], errors: Scores) -> list[dict[str, Any]]:
    """A row per pair of calibrations: Spearman of theta, and the share of layers that are given the same option."""
    names = [layer.name for layer in structure.choices]
    thetas = [np.array([found.importance(structure)[name] for name in names]) for found in seeds]
    recipes = [_recipe(structure, found, errors) for found in seeds]
    rows = []
    for a, b in itertools.combinations(range(len(seeds)), 2):
        same = sum(recipes[a].option(name) == recipes[b].option(name) for name in names) / len(names)
        rows.append({"seeds": f"{a} and {b}", "Spearman of theta": round(spearman(thetas[a], thetas[b]), 4),
                     f"same option at {BITS:g} bits": f"{same:.1%}", "n": len(names)})
    return rows


def _recipe(structure: Structure, found: Orthogonality, errors: Scores) -> Recipe:
    problem = layer_problem(structure, useful_scores(structure, found, errors), bits_budget(BITS, structure),
                            Limits(options=OPTIONS, keep_untouched=False))
    return allocate(problem, USEFUL).recipe
