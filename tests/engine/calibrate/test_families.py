"""The whole chain on every family of models: guidance batches, split skips, tied and shared layers, joint attention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.calibrate.adaround import RoundingPlan
from engine.calibrate.allocation import preset_recipe
from engine.calibrate.capture import CapturePlan
from engine.calibrate.dmq import Calibrated, DmqPlan, calibrate
from engine.calibrate.les import LesPlan, Scaling
from engine.calibrate.pts import ShiftPlan
from engine.calibrate.rows import RowsPlan, draw_rows
from engine.calibrate.scalings import Inputs, learn_scalings
from engine.live.apply import applied
from engine.live.generate import pictures
from engine.live.model import Model
from engine.live.request import Request
from tests.engine.calibrate.trajectories import captured_of

SHORT = DmqPlan(LesPlan(iterations=2, checks=1), RoundingPlan(iterations=2, batch=4),
                shifts=ShiftPlan(where="spread", threshold=4.0, kappa=0.3, votes=4, tested=False), groups=2,
                rows=RowsPlan(count=8, held=0.3), capture=CapturePlan(images=3, steps=2, batch=3))


def checked(model: Model, plan: DmqPlan, place: Path) -> Calibrated:
    before = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    *_, last = calibrate(model, preset_recipe(model.structure, "W4A6", "first-last"), plan, directory=place)
    assert isinstance(last, Calibrated)
    assert all(torch.equal(before[k], v) for k, v in model.denoiser.state_dict().items())
    with applied(model, last.recipe):
        for steps in (2, 5):
            picture = pictures(model, Request(prompts=("x",), steps=steps), exact=True)[0]
            assert picture.exact is not None and np.isfinite(picture.exact).all()
    return last


def test_static_activations_and_shifts_under_guidance(guided: Model, tmp_path: Path) -> None:
    plan = DmqPlan(None, None, shifts=ShiftPlan(kappa=0.3, votes=4, tested=False), groups=2, rows=RowsPlan(count=8),
                   capture=CapturePlan(images=2, steps=2))
    found = checked(guided, plan, tmp_path)
    assert any(":1" in name for name in found.shifts) and any(":0" in name for name in found.shifts)
    assert {a.groups for a in found.recipe.activations.values()} == {2}


@pytest.mark.parametrize(("name", "steps"), [pytest.param("flux", 3, marks=pytest.mark.slow), ("lumina2", 3),
                                             ("ddpm", 1)])
def test_scalings_are_learned_whatever_timesteps_count(name: str, steps: int, tiny_model: Callable[[str], Model]
                                                       ) -> None:
    """Shares of the schedule, falling or rising, and a single step."""
    model = tiny_model(name)
    rows = draw_rows(model, captured_of(model, steps=steps), RowsPlan(count=24, held=0.5))
    assert rows.rising == (name == "lumina2")
    recipe = preset_recipe(model.structure, "W4A4", "first-last")
    layers = [x.name for x in model.structure.layers if x.choice in recipe.activations][:4]
    found = [e for e in learn_scalings(model, rows, recipe, LesPlan(iterations=60, checks=6), Inputs(groups=1),
                                       only=layers) if isinstance(e, Scaling)]
    assert any(s.accepted for s in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd1", "pixart-alpha", "dit", "sd3", "flux", "hunyuan", "sana"])
def test_every_family(name: str, tiny_model: Callable[[str], Model], tmp_path: Path) -> None:
    model = tiny_model(name)
    found = checked(model, SHORT, tmp_path)
    choices = {x.name for x in model.structure.choices}
    assert found.weights is not None and set(found.recipe.weights) == set(found.recipe.options)
    assert set(found.recipe.activations) <= choices and found.recipe.activations
    assert sum(r.iterations > 0 for r in found.roundings.values()) >= len(found.roundings) // 2
    # blocks were taken as wholes, not layer by layer
    assert len(found.roundings) < len(found.weights.entries)
