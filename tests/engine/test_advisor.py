"""The advisor: forecasts with uncertainty, quick answers, budgets and support, on a planted model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.advisor import Advisor, find_advisor
from engine.allocate.problem import Limits
from engine.analysis.fitting import fit_predictor, fitted
from engine.analysis.library import predictor_stem
from engine.analysis.planted import Plan, Truth, measure, plant
from engine.analysis.predictor import Kind
from engine.analysis.predictor_files import save_predictor
from engine.analysis.trials import subject_of, trial_table
from engine.core.errors import InputError, StudyError
from engine.core.option import FP16, Option
from engine.core.recipe import Recipe, model_ref, uniform
from engine.core.sizes import bits_per_weight, full_bytes


@pytest.fixture(scope="module")
def truth() -> Truth:
    return plant(Plan(blocks=4), 3)


@pytest.fixture(scope="module")
def advisor(truth: Truth) -> Advisor:
    trials = measure(truth, 80, 1)
    table = trial_table(subject_of(truth.structure, truth.errors, trials), trials, "psnr")
    return Advisor(fitted(fit_predictor(table, kinds=[Kind.DAMAGE], about={"study": "planted", "images": "8"})))


def test_forecasts_cover_what_is_true(advisor: Advisor, truth: Truth) -> None:
    fresh = [dict(t.options) for t in measure(truth, 60, 9)]
    found = advisor.forecast([Recipe(model_ref(truth.structure), o) for o in fresh])
    real = np.array([truth.psnr(o) for o in fresh])
    inside = [f.low <= r <= f.high for f, r in zip(found, real, strict=True)]
    assert 0.8 <= np.mean(inside) <= 1.0
    assert np.corrcoef([f.mean for f in found], real)[0, 1] > 0.97
    assert np.mean([len(f.unsupported) for f in found]) < 2


def test_quick_answers_are_near_the_forecast(advisor: Advisor, truth: Truth) -> None:
    recipe = uniform(truth.structure, "uaq-3")
    (found,) = advisor.forecast([recipe])
    assert found.low < advisor.quick(recipe) < found.high
    assert advisor.quick(uniform(truth.structure, "uaq-4")) > advisor.quick(recipe)


def test_support_is_told(advisor: Advisor, truth: Truth) -> None:
    (found,) = advisor.forecast([Recipe(model_ref(truth.structure), {"conv_in": Option("uaq", 3)})])
    silent = {layer.name for layer in truth.structure.choices} - {"conv_in"}
    assert set(found.unsupported) == silent  # untouched occurs in no trial
    assert advisor.supported("conv_in", Option("uaq", 3))
    assert not advisor.supported("conv_in", FP16)
    assert not advisor.supported("nowhere", Option("uaq", 3))
    assert set(map(str, advisor.options())) == {"uaq-3", "uaq-4", "kmeans_c-3", "kmeans_c-4", "kmeans_a-3",
                                                "kmeans_a-4"}


def test_the_slider_meets_every_budget(advisor: Advisor, truth: Truth) -> None:
    limits = Limits(options=advisor.options(), keep_untouched=False)
    path = advisor.path(limits)
    previous = -np.inf
    for bits in np.linspace(3.2, 4.2, 12):
        budget = int(bits / 16 * full_bytes(truth.structure))
        found = path.at(budget)
        assert found.bytes <= budget
        assert bits_per_weight(truth.structure, found.recipe.options) <= bits
        quick = advisor.quick(found.recipe)
        assert quick >= previous - 0.05
        previous = quick
        assert advisor.solve(budget, limits=limits).cost <= found.cost + 1e-9


def test_what_it_advises_is_better_in_truth(advisor: Advisor, truth: Truth) -> None:
    limits = Limits(options=advisor.options(), keep_untouched=False)
    budget = int(3.5 / 16 * full_bytes(truth.structure))
    ours = advisor.solve(budget, limits=limits)
    for other in ("size-only", "random"):
        theirs = advisor.solve(budget, other, limits)
        assert truth.psnr(dict(ours.recipe.options)) > truth.psnr(dict(theirs.recipe.options))


def test_bad_input(advisor: Advisor, truth: Truth) -> None:
    reference = model_ref(truth.structure)
    with pytest.raises(StudyError, match="nowhere"):
        advisor.quick(Recipe(reference, {"nowhere": Option("uaq", 3)}))
    with pytest.raises(InputError, match="too small"):
        advisor.solve(10)
    with pytest.raises(InputError, match="larger than full precision"):
        advisor.solve(full_bytes(truth.structure) + 1)


def test_it_is_found_by_identity(advisor: Advisor, truth: Truth, tmp_path: Path,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path))
    assert find_advisor(truth.structure) is None
    save_predictor(predictor_stem(truth.structure), advisor.predictor)
    found = find_advisor(truth.structure)
    assert found is not None
    assert found.trust == advisor.trust
    assert found.formula == "psnr"
    assert found.figures["damage"] == advisor.figures["damage"]
