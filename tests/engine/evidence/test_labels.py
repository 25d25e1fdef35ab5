"""Reliability of the target: a planted noise gives the correlation of halves that theory says, and its ceiling."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.analysis.planted import Plan, measure, plant
from engine.analysis.trials import Labelled, subject_of, trial_table
from engine.core.errors import StudyError
from engine.evidence import labels
from engine.evidence.labels import ceiling, target_reliability
from engine.evidence.studied import read_studied
from engine.study.summary import summary

SHIPPED = Path("assets/studies/emoji-unet.sqlite")
TRIALS, IMAGES = 400, 32


class FakeStudy:
    """A study whose psnr is a signal plus noise of every image; ids run backwards through the rows."""

    def __init__(self, values: np.ndarray) -> None:
        self.protocol = SimpleNamespace(labels=(), prompts=tuple(f"prompt {i}" for i in range(IMAGES)), seeds=())
        self._values = values

    def __enter__(self) -> FakeStudy:
        return self

    def __exit__(self, *_: object) -> None: ...

    def per_image(self, name: str) -> tuple[list[int], np.ndarray]:
        if name != "psnr":
            raise StudyError(f"no values of {name!r} per image")
        return list(range(len(self._values)))[::-1], self._values[::-1]


def planted(monkeypatch: pytest.MonkeyPatch, noise: float, formula: str = "psnr") -> Any:
    """Trials of a planted model whose images scatter; two presets that differ by far more than their trials do."""
    truth = plant(Plan(blocks=2), 0)
    trials = measure(truth, TRIALS, 1)
    presets = ["fine", "rough"] * (TRIALS // 2)
    rng = np.random.default_rng(0)
    signal = rng.normal(size=TRIALS)
    values = signal[:, None] + noise * rng.normal(size=(TRIALS, IMAGES)) + 50 * (np.array(presets) == "fine")[:, None]
    labelled = [Labelled(t.options, {"psnr": float(v.mean())}, p) for t, v, p in
                zip(trials, values, presets, strict=True)]
    table = trial_table(subject_of(truth.structure, truth.errors), labelled, formula)
    monkeypatch.setattr(labels, "read_study", lambda _: FakeStudy(values))
    return SimpleNamespace(table=table, ids=tuple(range(TRIALS)), near=np.zeros(TRIALS, bool))


def test_halves_agree_as_theory_says(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = 3.0
    found = target_reliability(Path("study"), planted(monkeypatch, noise))
    # halves of 16 images: Pearson 1 / (1 + 9 / 16), and Spearman 6 / pi asin(r / 2) of normal columns
    expected = 6 / np.pi * np.arcsin(1 / (1 + noise**2 / (IMAGES / 2)) / 2)
    assert found.in_bins == pytest.approx(expected, abs=0.06)
    assert found.ceiling is not None and found.in_bins is not None and found.ceiling > found.in_bins
    # presets mixed, the gap between them looks like reliability
    assert found.pooled_in_bins is not None and found.pooled_in_bins > found.in_bins + 0.1
    assert set(found.by_preset) == {"fine", "rough"}
    assert (found.trials, found.images, found.splits) == (TRIALS, IMAGES, 20)


def test_a_price_on_bits_makes_no_label_reliable(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = target_reliability(Path("study"), planted(monkeypatch, 3.0))
    priced = target_reliability(Path("study"), planted(monkeypatch, 3.0, "psnr - 1000*bits"))
    assert priced.median == pytest.approx(plain.median)


def test_the_summary_of_the_first_trials_is_of_those_alone() -> None:
    whole, part = summary(SHIPPED), summary(SHIPPED, first=100)
    assert whole["trials"] > 100 == part["trials"] == sum(p["trials"] for p in part["presets"])
    assert part["label_reliability"]["trials"] == 100 and part["label_reliability"]["metric"] == "psnr"
    assert part["label_reliability"]["median"] != whole["label_reliability"]["median"]


def test_noise_sets_the_ceiling() -> None:
    # a label of reliability R correlates with the truth by sqrt(R); halves of it by R_half = R / (2 - R)
    for whole in (0.3, 0.7, 0.95, 1.0):
        assert ceiling(whole / (2 - whole)) == pytest.approx(np.sqrt(whole))
    assert ceiling(-0.1) == 0


def test_the_shipped_study_is_reliable_where_predictors_are_ranked() -> None:
    studied = read_studied(SHIPPED)
    found = target_reliability(SHIPPED, studied)
    assert found.trials == len(studied.table) and found.images == 64
    assert found.median > 0.9
    with pytest.raises(StudyError):
        target_reliability(SHIPPED, read_studied(SHIPPED, "-log(1e-3 + abs(kernel_distance[emoji-clip]))"))
