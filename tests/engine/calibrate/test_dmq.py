"""From an allocation to a recipe: composed of stages, shared between runs, found by id, the same when reopened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.calibrate.adaround import RoundingPlan
from engine.calibrate.allocation import preset_recipe
from engine.calibrate.capture import CapturePlan
from engine.calibrate.channels import channel_report, load_report, save_report
from engine.calibrate.dmq import Calibrated, DmqPlan, calibrate
from engine.calibrate.files import load_part, save_part
from engine.calibrate.les import LesPlan
from engine.calibrate.problem import convolution_of
from engine.calibrate.pts import ShiftPlan
from engine.calibrate.rows import RowsPlan
from engine.core.errors import Cancelled, EngineError, InputError, RecipeError
from engine.core.option import Option
from engine.core.recipe import load_recipe, save_recipe, sizes
from engine.live.apply import applied, apply_all, restore
from engine.live.generate import pictures
from engine.live.model import Model, open_model
from engine.live.request import Request
from engine.live.tables import tables_path
from engine.live.weightsets import weight_set_path
from engine.models.quiet import quiet
from engine.models.tiny import TINY
from engine.quant.activation import simulate, static_parameters
from engine.quant.integer import integer_input, integer_layer, simulated_layer, weight_codes
from engine.quant.qweight import TAU
from engine.quant.scaling import unfold
from engine.quant.shifts import code_room

PLAN = DmqPlan(LesPlan(iterations=12, checks=3), RoundingPlan(iterations=12, batch=4),
               shifts=ShiftPlan(kappa=0.4, votes=8, tested=False), groups=3, rows=RowsPlan(count=12, held=0.25),
               capture=CapturePlan(images=4, steps=3))


def run(model: Model, plan: DmqPlan, place: Path, preset: str = "W4A6", **how: Any) -> Calibrated:
    *_, last = calibrate(model, preset_recipe(model.structure, preset, **how), plan, directory=place)
    assert isinstance(last, Calibrated)
    return last


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.denoiser.state_dict().items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint on disk, with an outlier channel before every second convolution of a residual block."""
    home = tmp_path_factory.mktemp("pipelines") / "plain"
    with quiet(), torch.no_grad():
        pipeline = TINY["ddpm"]()
        for name, module in pipeline.unet.named_modules():
            if name.endswith("norm2"):
                module.weight[3] = 25
        pipeline.save_pretrained(home)
    return home


@pytest.fixture(scope="module")
def model(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    opened = open_model(saved, store=tmp_path_factory.mktemp("stores") / "store")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibration")


@pytest.fixture(scope="module")
def made(model: Model, place: Path) -> Calibrated:
    return run(model, PLAN, place)


def test_every_stage_leaves_its_mark(model: Model, made: Calibrated) -> None:
    recipe, structure = made.recipe, model.structure
    assert list(made.stages) == ["trajectories", "scaling", "rounding", "ranges", "shifts"]
    assert all(seconds and peak for seconds, peak in made.stages.values())
    assert recipe.weights.keys() == recipe.options.keys() == recipe.activations.keys()
    scaled = {name for name, found in made.scalings.items() if found.accepted}
    assert scaled and scaled == {n for n, e in made.weights.entries.items() if e.scaled}  # type: ignore[union-attr]
    assert scaled == {n for n, a in recipe.activations.items() if a.scaled}
    assert {n for n, a in recipe.activations.items() if a.shifted} == set(made.shifts)
    assert recipe.provenance["calibration"]["scaling"]["iterations"] == 12
    bytes_plain = sizes(structure, replace(recipe, weights={}, activations={}))["bytes"]
    assert sizes(structure, recipe)["bytes"] > bytes_plain
    assert model.recipe.options == {} and model.inputs.settings == {}


def test_applying_is_reversible_and_leaves_out_what_is_excluded(model: Model, made: Calibrated) -> None:
    before = weights(model)
    with applied(model, made.recipe):
        now = weights(model)
        changed = {k for k in now if not torch.equal(now[k], before[k])}
        assert changed == {f"{model.structure.layer(n).module}.weight" for n in made.recipe.options}
        for steps in (2, 5):
            assert np.isfinite(pictures(model, Request(steps=steps), exact=True)[0].exact).all()
    after = weights(model)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_reopened_it_is_the_same_bit_for_bit(model: Model, made: Calibrated, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "made.recipe.json"
    save_recipe(path, made.recipe, model.structure)
    request = Request(steps=2, seeds=(5,))
    with applied(model, made.recipe):
        expected, picture = weights(model), pictures(model, request, exact=True)[0]
    fresh = open_model(saved, store=tmp_path / "store")
    apply_all(fresh, load_recipe(path))
    found = weights(fresh)
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    assert np.array_equal(pictures(fresh, request, exact=True)[0].exact, picture.exact)
    fresh.close()
    half = open_model(saved, dtype="float16", store=tmp_path / "half")
    apply_all(half, load_recipe(path))
    assert np.isfinite(pictures(half, request, exact=True)[0].exact).all()
    with pytest.raises(InputError, match="float32"):
        run(half, PLAN, tmp_path / "c")
    half.close()


def test_calibrated_layers_run_in_whole_numbers(model: Model, made: Calibrated) -> None:
    """Weights and tables of the calibration itself: the integer path gives what is simulated."""
    assert made.weights is not None and made.tables is not None
    generator = torch.Generator().manual_seed(0)
    for layer in model.structure.layers:
        if layer.name not in made.weights.entries:
            continue
        weight = made.weights.load(layer.name, Option("uaq", 4))
        table = made.tables.layers[layer.name]
        wide = replace(table, low=table.low.double(), high=table.high.double(),
                       tau=None if table.tau is None else table.tau.double())
        side = (2, layer.shape[1], 4, 4) if layer.kind == "conv2d" else (2, 3, layer.shape[1])
        x = torch.randn(side, generator=generator, dtype=torch.float64) * float(table.high.max())
        how = convolution_of(model.denoiser.get_submodule(layer.module))
        found = integer_layer(integer_input(x, wide, 1, 6, layer.kind), weight, **how)
        seen = simulate(x, *static_parameters(*wide.parameters(6), 1, x, layer.kind), 6)
        plain = {k: v for k, v in weight.tensors.items() if k != TAU}
        dense = replace(weight, tensors=plain).dequantize().double()
        dense = dense if table.tau is None else unfold(dense, wide.tau)  # type: ignore[arg-type]
        expected = simulated_layer(seen, dense, layer.kind, None, **how)
        assert (found.values - expected).abs().max() <= 1e-6 * expected.abs().max()
        assert found.accumulator < 2**31 and found.operand < 2**7


def test_shifted_weights_fit_eight_bits_even_where_a_channel_has_one_sign(tmp_path: Path) -> None:
    """One skip convolution has an output channel of large positive weights, another one that leaves a little room."""
    with quiet(), torch.no_grad():
        pipeline = TINY["ddpm"]()
        skips = [m for n, m in pipeline.unet.named_modules() if n.endswith("conv_shortcut")]
        for skip, offset in zip(skips, (50.0, 1.0), strict=False):
            skip.weight[0] = skip.weight[0].abs() + offset * skip.weight.abs().max()
        pipeline.save_pretrained(tmp_path / "signed")
    model = open_model(tmp_path / "signed", store=tmp_path / "store")
    plan = replace(PLAN, scaling=None, rounding=None, shifts=ShiftPlan(kappa=0.0, votes=8, tested=False))
    found = run(model, plan, tmp_path / "work")
    assert found.tables is not None and len(found.shifts) >= 3
    deepest = {}
    for name, chosen in found.shifts.items():
        codes = weight_codes(model.store.load(name, Option("uaq", 4)))
        deepest[name] = int(chosen.shifts.max())
        assert deepest[name] == 0 or int(codes.abs().max()) << deepest[name] < 2**7
        assert chosen.accepted == found.recipe.activations[name].shifted == (code_room(codes) > 0)
    assert {0, 3} < set(deepest.values()), "one layer is refused, one is narrowed, the others are as they were"
    model.close()


@pytest.mark.slow
def test_runs_share_what_they_have_in_common(model: Model, made: Calibrated, place: Path) -> None:
    again = run(model, PLAN, place)
    assert again.recipe.hash == made.recipe.hash
    by_error = run(model, replace(PLAN, shifts=ShiftPlan(choose="error", votes=8, tested=False)), place)
    assert by_error.weights is not None and made.weights is not None and by_error.weights.id == made.weights.id
    assert by_error.recipe.hash != made.recipe.hash
    unscaled = replace(PLAN, scaling=None, shifts=None)
    six, eight = run(model, unscaled, place), run(model, unscaled, place, "W4A8")
    assert six.weights is not None and eight.weights is not None and six.weights.id == eight.weights.id
    assert six.tables is not None and eight.tables is not None and six.tables.id == eight.tables.id


def test_what_an_earlier_run_kept_counts_as_it_did_there(model: Model, tmp_path: Path) -> None:
    """Parts are given the cost of a slow run; without one they are unknown, but for the learning that timed itself."""
    plan = replace(PLAN, shifts=None)
    first = run(model, plan, tmp_path)
    for path in tmp_path.rglob("*.safetensors"):
        save_part(path, *load_part(path), (1000.0, 9e6))
    folders = {"trajectories": "trajectories", "scaling": "scalings", "rounding": "roundings"}
    counts = {stage: len(list(tmp_path.glob(f"{folder}-*/*.safetensors"))) for stage, folder in folders.items()}
    again = run(model, plan, tmp_path)
    for stage, count in counts.items():
        seconds, peak = again.stages[stage]
        assert count and seconds == pytest.approx(1000 * count, rel=0.01) and peak == 9e6
    assert again.stages["ranges"][0] < 1000  # type: ignore[operator]
    for path in tmp_path.rglob("*.safetensors"):
        save_part(path, *load_part(path))
    old = run(model, plan, tmp_path)
    assert old.stages["trajectories"] == (None, None)
    assert old.stages["scaling"][1] is old.stages["rounding"][1] is None
    learned = sum(s.seconds for s in first.scalings.values())
    assert old.stages["scaling"][0] >= learned > 0  # type: ignore[operator]
    report = channel_report(old)
    assert report is not None
    save_report(tmp_path / "a", report)
    assert load_report(tmp_path / "a").stages == old.stages


@pytest.mark.slow
def test_stages_can_be_left_out(model: Model, place: Path) -> None:
    plain = run(model, replace(PLAN, scaling=None, rounding=None, shifts=None), place)
    assert plain.weights is None and plain.recipe.weights == {}
    assert list(plain.stages) == ["trajectories", "ranges"]
    assert not any(a.scaled or a.shifted for a in plain.recipe.activations.values())
    online = run(model, replace(PLAN, scheme="token", shifts=None), place)
    assert online.tables is None and {a.scheme for a in online.recipe.activations.values()} == {"token"}
    weights_only = run(model, PLAN, place, "W4A16")
    assert weights_only.recipe.activations == {} and weights_only.recipe.weights
    nothing = run(model, replace(PLAN, scaling=None, rounding=None, scheme="token", shifts=None), place)
    assert nothing.stages == {} and nothing.recipe.weights == {}
    for found in (plain, online, weights_only, nothing):
        with applied(model, found.recipe):
            assert np.isfinite(pictures(model, Request(steps=2), exact=True)[0].exact).all()


def test_any_allocation_and_the_heuristic_control(model: Model, place: Path) -> None:
    plan = replace(PLAN, scaling=LesPlan(method="smooth"), rounding=None, shifts=None)
    allocation = preset_recipe(model.structure, "W4A6", "none")
    names = list(allocation.options)
    mixed = allocation.with_options({names[1]: Option("uaq", 8), names[2]: Option("kmeans_c", 3)})
    *_, last = calibrate(model, mixed, plan, directory=place)
    assert isinstance(last, Calibrated)
    assert all(s.accepted or s.reason for s in last.scalings.values())
    assert last.weights is not None and last.weights.entries[names[2]].option == Option("kmeans_c", 3)
    with applied(model, last.recipe):
        assert model.recipe == last.recipe


def test_a_set_that_is_gone_is_one_sentence(made: Calibrated, saved: Path, tmp_path: Path) -> None:
    assert made.weights is not None and made.tables is not None
    for find, id, word in ((weight_set_path, made.weights.id, "weights from the set"),
                           (tables_path, made.tables.id, "activation tables")):
        fresh = open_model(saved, store=tmp_path / "store")
        path = find(fresh.structure, id)
        kept = path.read_bytes()
        path.unlink()
        with pytest.raises(RecipeError, match=word):
            apply_all(fresh, made.recipe)
        assert fresh.recipe.options == {}
        path.write_bytes(kept)
        fresh.close()


def test_interrupted_and_bad_input(model: Model, made: Calibrated, tmp_path: Path) -> None:
    stop = threading.Event()
    events = calibrate(model, preset_recipe(model.structure, "W4A6"), PLAN, directory=tmp_path, cancel=stop)
    next(events)
    stop.set()
    with pytest.raises(Cancelled):
        list(events)
    assert model.recipe.options == {}
    with pytest.raises(InputError, match="already takes"):
        calibrate(model, made.recipe, PLAN)
    with pytest.raises(InputError, match="shifts belong"):
        DmqPlan(scheme="token")
    with pytest.raises(EngineError, match="one of token, static"):
        DmqPlan(scheme="rows", shifts=None)
    restore(model)
