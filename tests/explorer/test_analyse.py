"""The Analyse tab without a browser: heat maps hold the records, presets need their files, steps are kept."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from engine.calibrate.channels import ChannelReport, Channels, report_path, save_report
from engine.calibrate.importance import Weighting
from engine.calibrate.orthogonality import Orthogonality, orthogonality_path, save_orthogonality, useful_scores
from engine.calibrate.presets import find_presets, save_preset
from engine.calibrate.step_errors import StepErrors
from engine.core.activation import STATIC, Activation
from engine.core.graph import Structure
from engine.core.recipe import uniform_bits
from engine.core.record import Scores
from explorer.analysis import Analysis
from explorer.channelview import agreement_view, channels_text, find_reports, preferred, shifts_view
from explorer.choices import Choices
from explorer.context import OpenModel
from explorer.heat import Named, gamma_view, heat, matrix_view, steps_view
from explorer.measuring import Steps
from explorer.server import Binding
from explorer.state import Settings, fresh
from explorer.worker import Worker
from tests.explorer.ui.models import STRUCTURES


@pytest.fixture
def structure() -> Structure:
    return replace(STRUCTURES["unet"](), identity="0123456789abcdef")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path))
    return tmp_path


def record(structure: Structure) -> Orthogonality:
    """Two steps, three blocks of alike layers, one layer that never varies."""
    rows = tuple(dict.fromkeys(x.module for x in structure.choices))
    one = torch.eye(len(rows), dtype=torch.float64)
    one[0] = one[:, 0] = 0
    one[1, 2] = one[2, 1] = 0.75
    return Orthogonality(structure.identity, rows, (0, 9), (900.0, 100.0), torch.stack([one, one]), 0.2, 0.1, 64, (),
                         (rows[0],), ("One layer is silent.",), {"features": "output"})


def test_heat_maps_keep_places_and_blank_what_is_no_number() -> None:
    rows, columns = [{"label": "a"}, {"label": "b"}], [{"label": "1"}, {"label": "2"}]
    value = heat(Named("t", "u"), rows, columns, [[1.0, math.nan], [math.inf, 4.0]], log=True)
    assert value["values"] == [[1.0, None], [None, 4.0]] and value["scale"] == [1.0, 4.0]


def test_orthogonality_views_hold_the_record(structure: Structure) -> None:
    found = record(structure)
    matrix, gamma = matrix_view(structure, found), gamma_view(structure, found)
    assert matrix["values"][1][2] == 0.75 and matrix["values"][0][1] is None
    assert matrix["scale"] == [0.0, 1.0] and "One layer is silent." in matrix["note"]
    assert [c["label"] for c in gamma["columns"]] == ["1", "10"] and gamma["values"][0] == [None, None]
    choices = {x.name for x in structure.choices}
    assert all(row["id"] in choices for row in matrix["rows"])
    assert gamma["values"][1][0] == pytest.approx(float(found.gamma[0, 1]), rel=1e-3)


def test_errors_per_step_have_the_model_on_top(structure: Structure) -> None:
    names = tuple(x.name for x in structure.layers)
    found = StepErrors("m", "r", (9.0, 1.0), names, tuple((0.1, 0.2) for _ in names), (0.3, 0.4), (0.0, 0.6), 4)
    value = steps_view(structure, found)
    assert [row["label"] for row in value["rows"][:2]] == ["latents", "output"] and value["pick"] == "column"
    assert value["values"][:3] == [[0.0, 0.6], [0.3, 0.4], [0.1, 0.2]] and len(value["rows"]) == len(names) + 2
    assert value["scale"] == [0.1, 0.2], "of the layers; the whole model may lie beyond"


def test_channels_before_and_after(structure: Structure, cache: Path) -> None:
    shifts = torch.tensor([[0, 3]], dtype=torch.uint8)
    one = Channels(torch.tensor([-8.0, -1.0]), torch.tensor([4.0, 1.0]), None, shifts, torch.tensor([[0.5, 1.0]]),
                   {"shifts_before": 0.2, "shifts_after": 0.1})
    three = Channels(torch.tensor([-8.0, -1.0, -1.0]), torch.tensor([4.0, 1.0, 1.0]), None,
                     torch.tensor([[0, 3, 3]], dtype=torch.uint8))
    assert "**8.0** before, **1.0** after" in channels_text("x", three)
    assert "0.2 → 0.1, accepted" in channels_text("x", one)
    assert shifts_view(one)["values"] == [[0.0, 3.0]] and agreement_view(one)["values"] == [[0.5, 1.0]]
    assert "refused" in shifts_view(replace(one, shifts=None))["empty"]
    assert "voted" in agreement_view(replace(one, agreement=None))["empty"]
    for i, name in enumerate(("aaaaaaaaaaaa", "bbbbbbbbbbbb")):
        path = report_path(structure, name)
        save_report(path, ChannelReport(structure.identity, name, {structure.layers[0].name: one}))
        os.utime(path, (i, i))
    reports = find_reports(structure)
    used = Choices({}, {"x": Activation(6, STATIC, "aaaaaaaaaaaa", 1)})
    assert list(reports) == ["bbbbbbbbbbbb", "aaaaaaaaaaaa"], "the newest first"
    assert preferred(reports, {}) == "bbbbbbbbbbbb" and preferred(reports, used) == "aaaaaaaaaaaa"


def test_presets_are_offered_where_their_files_are(structure: Structure, cache: Path) -> None:
    name = structure.choices[0].name
    recipe = uniform_bits(structure, 4).with_activations({name: Activation(8, STATIC, "aaaaaaaaaaaa", 20)})
    save_preset(structure, "W4A8", recipe)
    assert find_presets(structure) == {}
    tables = cache / "activations" / "m-01234567.aaaaaaaaaaaa.activations.safetensors"
    tables.parent.mkdir()
    tables.write_bytes(b"")
    assert find_presets(structure)["W4A8"].activations == recipe.activations
    assert find_presets(replace(structure, identity="fedcba9876543210")) == {}


class Backend:
    """As much of a backend as the tab asks for."""

    why_no_pictures = ""
    scores: ClassVar[dict[str, Any]] = {}

    def __init__(self, structure: Structure) -> None:
        self.structure = structure


def analysis(structure: Structure) -> tuple[Analysis, Any]:
    model = OpenModel(Backend(structure), [], "", tuple(x.name for x in structure.choices))  # type: ignore[arg-type]
    bound = Binding("127.0.0.1", 7860, (), "", False)
    context: Any = SimpleNamespace(model=lambda name: model, worker=Worker(), bound=bound)
    return Analysis(context), fresh("m", uniform_bits(structure, 4).options, "bits", Settings())


def test_a_missing_record_is_said_and_one_that_is_there_is_shown(structure: Structure, cache: Path) -> None:
    logic, state = analysis(structure)
    matrix, _, figure = logic.orthogonality(state)
    assert "Compute orthogonality" in matrix["empty"] and figure is None
    save_orthogonality(orthogonality_path(structure), record(structure))
    matrix, gamma, figure = logic.orthogonality(state)
    assert matrix["rows"] and gamma["rows"] and set(figure.data[0].y) == {4}


def test_theta_is_drawn_with_the_weighting_of_the_scores_in_use(structure: Structure, cache: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    found, errors = record(structure), Scores("weight-error", structure.identity, "", {})
    save_orthogonality(orthogonality_path(structure), found)
    logic, state = analysis(structure)
    for weighting in (Weighting(), Weighting(beta=2), Weighting("time-exp", 3, 0.5, True)):
        scores = useful_scores(structure, found, errors, weighting)
        monkeypatch.setattr(Backend, "scores", {"orthogonality": scores})
        drawn = logic.orthogonality(state)[2].data[1]
        theta = found.importance(structure, weighting)
        assert list(drawn.y) == pytest.approx([theta[x.name] for x in structure.choices])
    monkeypatch.setattr(Backend, "scores", {"orthogonality": replace(scores, about={"beta": "much"})})
    matrix, _, figure = logic.orthogonality(state)
    assert "how they were weighted" in matrix["empty"] and figure is None


def test_models_without_weights_say_why(structure: Structure, cache: Path) -> None:
    logic, state = analysis(structure)
    logic.context.model("m").backend.why_no_pictures = "No weights here."
    assert list(logic.compute(state, "outliers", "s")) == [{"error": "No weights here."}]
    assert list(logic.steps(state, "s")) == [{"error": "No weights here."}]


def test_steps_are_kept_per_session_and_clicked(structure: Structure, cache: Path) -> None:
    import numpy as np

    from explorer.analysis import Measured

    logic, state = analysis(structure)
    assert logic.step_pane(state, {"column": 0}, "s") is None
    pixels = np.zeros((3, 4, 4, 3), np.uint8)
    logic.measured["s"] = Measured("m", Steps(pixels, pixels, "apple"), ("step 1", "step 2", "step 3"))
    whole = logic.step_pane(state, None, "s")
    assert whole and whole["index"] == 2 and len(whole["a"]["images"]) == 3 and whole["labels"][1] == "step 2"
    assert logic.step_pane(state, {"row": 5, "column": 1}, "s") == {"index": 1}
    assert logic.step_pane(state, {"row": 5, "column": 99}, "s") == {"index": 2}
    assert logic.step_pane(state, None, "another") is None
    assert logic.forget(replace(state, model="n"), "s") and "s" not in logic.measured


def test_channels_without_a_calibration_name_the_command(structure: Structure, cache: Path) -> None:
    logic, state = analysis(structure)
    view = logic.channels(state, None, None, 0)
    assert view.presets == () and "--preset W4A6" in view.note and view.ranges is None and view.text
