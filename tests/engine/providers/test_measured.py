"""Measured damage: a planted cause ranks first, references and blocks by hand, resumed and cancelled runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.core.errors import Cancelled, InputError, StudyError
from engine.core.option import Option
from engine.core.recipe import Recipe, model_ref, uniform
from engine.core.record import Scores
from engine.live.apply import applied
from engine.live.generate import pictures
from engine.live.model import Model
from engine.metrics.paired import mse, stack
from engine.providers.files import load_scores, save_scores
from engine.providers.measured import Measured, Plan, measure
from engine.providers.progress import Progress
from engine.providers.prompts import request_for, split_of
from engine.providers.table import damage_table
from tests.engine.providers.conftest import FRAGILE

U3, U4 = Option("uaq", 3), Option("uaq", 4)
FEW = ("conv_in", FRAGILE, "mid_block.resnets.0.conv2", "conv_out", "time_embedding.linear_1")
TASKS = len(FEW) * 2 + 1 + len(FEW)  # two options around full precision; a base and one option around uaq-4
PLAN = Plan(options=(U3, U4), levels=("layer",), images=4, steps=3, only=FEW)


def scores_in(events: list) -> dict[str, Scores]:
    return {e.provider: e for e in events if isinstance(e, Scores)}


def images(model: Model, recipe: Recipe) -> torch.Tensor:
    request = request_for(split_of(model), "calibration", 4, steps=3)
    with applied(model, recipe):
        return stack(pictures(model, request, exact=True))


def test_the_planted_cause_ranks_first(fragile: Model) -> None:
    plan = replace(PLAN, options=(U3,), around=(None,), only=(), images=2)
    scores = scores_in(list(measure(fragile, plan)))
    for provider in ("measured", "measured-latent"):
        ranked = sorted(scores[provider].layers, key=lambda n: -scores[provider].layers[n]["uaq-3"])
        assert ranked[0] == FRAGILE and len(ranked) == len(fragile.structure.choices)
    assert fragile.recipe.options == {}


def test_numbers_by_hand_around_full_precision_and_around_uniform(fragile: Model) -> None:
    events = list(measure(fragile, PLAN, command="how"))
    scores = scores_in(events)
    assert set(scores) == {"measured", "measured-latent", "measured-uaq4", "measured-uaq4-latent"}
    full = images(fragile, Recipe(model_ref(fragile.structure), {}))
    alone = images(fragile, Recipe(model_ref(fragile.structure), {FRAGILE: U3}))
    assert scores["measured"].layers[FRAGILE]["uaq-3"] == pytest.approx(mse(full, alone).mean(), rel=1e-6)
    base = mse(full, images(fragile, uniform(fragile.structure, U4))).mean()
    leaves = mse(full, images(fragile, uniform(fragile.structure, U4).with_options({FRAGILE: U3}))).mean()
    around = scores["measured-uaq4"]
    assert around.layers[FRAGILE] == pytest.approx({"uaq-3": leaves - base}, rel=1e-4)
    assert float(around.about["base_mse"]) == pytest.approx(base, rel=1e-6) and around.about["around"] == "uaq-4"
    assert around.command == "how" and around.unit == "image MSE" and around.trust.images == 4
    assert set(scores["measured"].layers) == set(FEW)
    assert all(len(e.latent_error) == 3 for e in events if isinstance(e, Measured))


def test_blocks_are_measured_whole(fragile: Model) -> None:
    block = next(b for b in fragile.structure.level("block") if FRAGILE in b.layers)
    plan = replace(PLAN, options=(U3,), levels=("block",), around=(None,), only=(block.id,))
    scores = scores_in(list(measure(fragile, plan)))["measured"]
    full = images(fragile, Recipe(model_ref(fragile.structure), {}))
    whole = images(fragile, Recipe(model_ref(fragile.structure), dict.fromkeys(block.layers, U3)))
    assert scores.blocks[block.id]["uaq-3"] == pytest.approx(mse(full, whole).mean(), rel=1e-6)
    assert scores.layers == {}


def test_a_run_that_was_stopped_goes_on(fragile: Model, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    undisturbed = scores_in(list(measure(fragile, PLAN)))

    class After:
        left = 40

        def is_set(self) -> bool:
            After.left -= 1
            return After.left < 0

    with pytest.raises(Cancelled):
        list(measure(fragile, PLAN, partial=path, cancel=After()))
    kept = len(path.read_text().splitlines()) - 1
    assert 0 < kept < TASKS and fragile.recipe.options == {}
    path.write_text(path.read_text() + '{"around": "fp16", "lev')  # as a kill leaves it
    events = list(measure(fragile, PLAN, partial=path))
    assert sum(isinstance(e, Measured) for e in events) == TASKS - kept
    first = next(e for e in events if isinstance(e, Progress))
    assert (first.index, first.of) == (kept + 1, TASKS)
    for provider, scores in scores_in(events).items():
        assert scores.layers == undisturbed[provider].layers
    assert not [e for e in measure(fragile, PLAN, partial=path) if isinstance(e, Measured)]


def test_another_runs_file_is_refused(fragile: Model, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    list(measure(fragile, replace(PLAN, only=("conv_in",), options=(U3,), around=(None,)), partial=path))
    with pytest.raises(StudyError, match=r"other settings \(steps\)"):
        list(measure(fragile, replace(PLAN, steps=2), partial=path))
    head, record = path.read_text().splitlines()
    path.write_text(head + "\n" + json.dumps({"around": "fp16"}) + "\n")
    with pytest.raises(StudyError, match="broken record"):
        list(measure(fragile, PLAN, partial=path))
    assert "image_mse" in record


def test_the_recipe_in_place_is_put_back(fragile: Model) -> None:
    with applied(fragile, uniform(fragile.structure, U4)):
        list(measure(fragile, replace(PLAN, only=("conv_in",), options=(U3,), around=(None,))))
        assert fragile.recipe.options == uniform(fragile.structure, U4).options


def test_unknown_names_are_refused(fragile: Model) -> None:
    with pytest.raises(InputError, match="no layer or block called 'nowhere'"):
        list(measure(fragile, replace(PLAN, only=("nowhere",))))


def test_scores_go_to_a_file_and_make_a_table(fragile: Model, tmp_path: Path) -> None:
    scores = scores_in(list(measure(fragile, PLAN)))["measured"]
    save_scores(tmp_path / "s.json", scores)
    assert load_scores(tmp_path / "s.json") == scores
    table = damage_table(fragile.structure, {"measured": scores})
    two = Recipe(model_ref(fragile.structure), {FRAGILE: U3, "conv_in": U4})
    predicted = table.predict_mse(two)
    full = images(fragile, Recipe(model_ref(fragile.structure), {}))
    assert predicted == pytest.approx(mse(full, images(fragile, two)).mean(), rel=0.5)
    assert np.isfinite(predicted)
