"""What is in a study, in a few numbers: counts, sizes, cost, and how reliable its labels are."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.errors import StudyError
from engine.core.jsonrecord import to_json
from engine.study.protocol import Protocol
from engine.study.reliability import Reliability, label_reliability
from engine.study.storage import Study, read_study
from engine.study.trial import State

TINY_S = 1e-9
DEFAULT_LABEL = "psnr"  # what predictors are fitted to unless told otherwise


def summary(path: str | Path, metric: str = "", first: int | None = None) -> dict[str, Any]:
    """Plain values about a study file, with the reliability of one label (None while there is too little to say).

    Args:
        path: the study file.
        metric: the label; "" = `DEFAULT_LABEL`.
        first: only the first so many of its done trials; None = all. What failed or waits is counted in any case.

    Raises:
        StudyError: see `read_study`; or the metric asked for was not measured image by image.
    """
    with read_study(path) as study:
        trials = study.trials()[:first]
        ids = {t.id for t in trials}
        counts = study.counts()
        reliability, note = None, ""
        try:
            reliability = to_json(reliability_of(study, metric or DEFAULT_LABEL, ids))
        except StudyError as problem:
            if metric:
                raise
            note = str(problem)
        others = _reliabilities(study, ids) if reliability else {}
        spent = np.array([t.duration_s for t in trials] or [0.0])
        beyond = 1 - np.array([t.generating_s for t in trials] or [0.0]) / np.maximum(spent, TINY_S)
        presets = sorted({(t.preset, t.seed) for t in (study.trials(None) if first is None else trials)})
        runs = study.predictors()
        return {
            "file": str(path), "model": study.protocol.model, "identity": study.protocol.identity,
            "trials": len(trials), "images": study.protocol.images, "failed": counts[State.FAILED],
            "waiting": counts[State.WAITING] + counts[State.RUNNING],
            "presets": [{"preset": p, "seed": s, "trials": sum((t.preset, t.seed) == (p, s) for t in trials)}
                        for p, s in presets],
            "bits_per_weight": [min(t.bits for t in trials), max(t.bits for t in trials)] if trials else [],
            "metrics": study.metric_names(), "steps": study.protocol.steps, "split": study.protocol.split,
            # Medians: a machine that stood still during one trial would otherwise make every trial look dear.
            "seconds_per_trial": float(np.median(spent)), "overhead": float(np.median(beyond)) if trials else 0.0,
            "environments": [str(e) for e in study.environments().values()],
            "label_reliability": reliability, "label_reliabilities": others, "note": note,
            "predictor": runs[-1]["figures"] if runs else None,
        }


def _reliabilities(study: Study, ids: Collection[int]) -> dict[str, dict[str, Any]]:
    """Median overall and within bins of every metric that has values per image, where it ranks anything."""
    found = {}
    for metric in study.metric_names():
        with contextlib.suppress(StudyError):
            r = reliability_of(study, metric, ids)
            found[metric] = {"median": r.median, "median_in_bins": r.median_in_bins}
    return found


def reliability_of(study: Study, metric: str, among: Collection[int] | None = None) -> Reliability:
    """Reliability of a label over the done trials (among these ids); halves are of prompts (of images where there are
    none).

    Raises:
        StudyError: too few trials or prompts, or the metric was not measured image by image.
    """
    ids, values = study.per_image(metric)
    bits = {trial.id: trial.bits for trial in study.trials()}
    rows = [i for i, number in enumerate(ids) if among is None or number in among]
    return label_reliability(metric, values[rows], prompts_of(study.protocol), np.array([bits[ids[i]] for i in rows]))


def prompts_of(protocol: Protocol) -> tuple[Any, ...]:
    """What the halves keep together: the prompt or label of every image [M], its seed where there are none."""
    return protocol.labels or (protocol.prompts if any(protocol.prompts) else protocol.seeds)


def summary_text(values: dict[str, Any]) -> str:
    """The same for people."""
    low, high = values["bits_per_weight"] or (0, 0)
    lines = [
        f"{values['file']}: {values['model']}, {values['trials']} trials x {values['images']} images, "
        f"{values['steps']} steps" + (f", {low:.2f} to {high:.2f} bits per weight" if values["trials"] else ""),
        *(f"  {p['preset']}, seed {p['seed']}: {p['trials']}" for p in values["presets"]),
        f"failed {values['failed']}, waiting {values['waiting']}; {values['seconds_per_trial']:.2f} s per trial "
        f"(median), {100 * values['overhead']:.1f} % beyond generating",
        *(f"measured on {e}" for e in values["environments"]),
    ]
    found = values["label_reliability"]
    if found:
        within = found["median_in_bins"]
        lines.append(f"label reliability of {found['metric']}: {found['median']:.3f} ({found['low']:.3f} to "
                     f"{found['high']:.3f}) over {found['splits']} splits, uncorrected; within quarter-bit bins "
                     + (f"{within:.3f}" if within is not None else "too few trials"))
    for metric, r in values["label_reliabilities"].items():
        within = r["median_in_bins"]
        lines.append(f"  {metric}: {r['median']:.3f}" + (f", {within:.3f} within bins" if within is not None else ""))
    return "\n".join([*lines, *([values["note"]] if values["note"] else [])])
