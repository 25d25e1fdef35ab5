"""The contest's outcome: per budget the best of each contender, and ours against it with intervals over the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.evidence.contest import OURS, UNIFORM, Budget, Entry, at_budget
from engine.evidence.gauge import Result
from engine.metrics.bootstrap import difference_interval, set_difference
from engine.metrics.compare import PAIRED

LABEL = "psnr"
SHOWN = ("psnr", "ssim", "latent_sqnr", "feature_distance", "kernel_distance", "frechet", "clip_score")
BETTER, EVEN, WORSE = "better", "even", "worse"


def verdicts(budgets: Sequence[Budget], entries: Sequence[Entry],
             final: Mapping[str, Result]) -> list[dict[str, Any]]:
    """One row per budget and contender.

    Args:
        budgets, entries: the contest, of our candidates and of the random draws only the one chosen before.
        final: recipe hash -> what was measured on the final images; the best uniform recipe that fits is chosen by it,
            which favours it.

    Returns:
        [{"budget", "group", "bytes", "shares", "rows": [{"contender", "note", "bytes", "recipe", "metrics",
        "differences", "verdicts", "verdict"}]}], ours first; "differences" are ours less theirs on the
        same images by paired metric: mean, low, high in its own unit; "verdicts" say whether ours is better by it,
        "verdict" by `LABEL`.
    """
    answer = []
    for budget in budgets:
        chosen = _best_of_each(at_budget(entries, budget), final)
        if OURS not in chosen:
            continue
        ours = final[chosen[OURS].recipe.hash]
        rows = [_row(entry, final[entry.recipe.hash], ours) for entry in chosen.values()]
        answer.append({"budget": budget.name, "group": budget.group, "bytes": budget.bytes,
                       "shares": budget.shares,
                       "rows": sorted(rows, key=lambda r: r["contender"] != OURS)})
    return answer


def as_good_as_four(budgets: Sequence[Budget], entries: Sequence[Entry], final: Mapping[str, Result],
                    bits: str = "3.5 bits") -> dict[str, Any] | None:
    """Ours at 3.5 stored bits against the best uniform recipe of 4 bits: the difference in dB with its interval."""
    at = next(b for b in budgets if b.name == bits)
    ours = next((e for e in at_budget(entries, at) if e.contender == OURS), None)
    fours = [e for e in entries if e.contender == UNIFORM and e.note.endswith("-4")]
    if ours is None or not fours:
        return None
    best = max(fours, key=lambda e: label_of(final[e.recipe.hash]))
    row = _row(best, final[best.recipe.hash], final[ours.recipe.hash])
    return {"ours": bits, "ours_bytes": ours.bytes, "uniform": best.note, "uniform_bytes": best.bytes,
            "ours_psnr": label_of(final[ours.recipe.hash]), "uniform_psnr": label_of(final[best.recipe.hash]),
            "difference": row["differences"][LABEL], "verdict": row["verdict"]}


def judge(difference: Sequence[float], *, higher_is_better: bool = True) -> str:
    """Of (mean, low, high) of ours less theirs: significant where the interval leaves out 0."""
    if not higher_is_better:
        difference = [-difference[0], -difference[2], -difference[1]]
    return BETTER if difference[1] > 0 else WORSE if difference[2] < 0 else EVEN


def _best_of_each(entries: Sequence[Entry], final: Mapping[str, Result]) -> dict[str, Entry]:
    """Contender -> its one entry."""
    found = {}
    for name in dict.fromkeys(e.contender for e in entries):
        own = [e for e in entries if e.contender == name]
        assert name == UNIFORM or len(own) == 1, f"{name} must be chosen before the final images"
        found[name] = max(own, key=lambda e: label_of(final[e.recipe.hash]))
    return found


def _row(entry: Entry, theirs: Result, ours: Result) -> dict[str, Any]:
    differences, outcome = {}, {}
    for name, values in ours.images.items():
        plain = name.partition("[")[0]
        differences[plain] = list(difference_interval(values, theirs.images[name]))
        outcome[plain] = judge(differences[plain], higher_is_better=PAIRED[plain][1])
    for name, groups in ours.left_out.items():
        plain, (a, b) = name.partition("[")[0], (_value(ours, name), _value(theirs, name))
        differences[plain] = list(set_difference(a, groups, b, theirs.left_out[name]))
        outcome[plain] = judge(differences[plain], higher_is_better=False)
    metrics = {}
    for name in SHOWN:
        metric = theirs.metric(name)
        if metric is not None:
            metrics[name] = [metric.value, metric.low, metric.high]
    return {"contender": entry.contender, "note": entry.note, "bytes": entry.bytes, "recipe": entry.recipe.hash,
            "metrics": metrics, "differences": differences, "verdicts": outcome, "verdict": outcome[LABEL]}


def label_of(result: Result) -> float:
    """The metric everything is compared by."""
    return _value(result, LABEL)


def _value(result: Result, name: str) -> float:
    metric = result.metric(name)
    assert metric is not None
    return metric.value
