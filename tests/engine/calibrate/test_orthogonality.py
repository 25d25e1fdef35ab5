"""MPQ-Diff on tiny models: profiles stream, resume and repeat; records and scores round trip; bad input is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.calibrate.capture import Captured, CapturePlan, capture
from engine.calibrate.correlation import features, gram
from engine.calibrate.importance import Weighting
from engine.calibrate.looking import looking
from engine.calibrate.orthogonality import (
    LINEAR,
    PROVIDER,
    Orthogonality,
    find_orthogonality,
    importances,
    linear_scores,
    load_orthogonality,
    orthogonality_of,
    orthogonality_path,
    save_orthogonality,
    score,
    useful_scores,
)
from engine.calibrate.profile import Profile, ProfilePlan, profile, profile_captured
from engine.core.errors import Cancelled, InputError, StoreError
from engine.core.record import Scores
from engine.live.model import Model

PLAN = ProfilePlan(CapturePlan(images=6, steps=4), profiled=2)


def last(events: Any) -> Any:
    return [*events][-1]


def profiled(model: Model, plan: ProfilePlan = PLAN, **kwargs: Any) -> Profile:
    found = last(profile(model, plan, **kwargs))
    assert isinstance(found, Profile)
    return found


@pytest.mark.parametrize("name", ["sd1", "dit", *(pytest.param(n, marks=pytest.mark.slow)
                                                  for n in ("pixart-alpha", "flux", "ddpm"))])
def test_every_family_is_profiled(tiny_model: Callable[[str], Model], name: str) -> None:
    model = tiny_model(name)
    found = orthogonality_of(profiled(model))
    assert found.matrices.shape == (2, len(found.rows), len(found.rows)) and found.steps == (0, 3)
    theta = found.importance(model.structure)
    assert set(theta) == {x.name for x in model.structure.choices}
    assert all(0 <= v <= 1 for v in theta.values()) and max(theta.values()) > 0.3
    assert any("6 pictures" in w for w in found.warnings)


def test_grams_are_of_the_prompts_half_at_one_step(unet: Model) -> None:
    found = profiled(unet)
    captured: Captured = last(capture(unet, PLAN.capture))
    layer = next(x for x in unet.structure.layers if x.name.endswith("attn1.to_q"))
    seen: list[torch.Tensor] = []
    call = next(captured.calls([3]))
    with looking(unet, [layer], outputs=lambda _, x: seen.append(x)), torch.no_grad():
        unet.denoiser(*call.args, **call.kwargs)
    expected = gram(features(seen[0][call.conditional.start:call.conditional.stop]))
    got = found.grams[1, found.rows.index(layer.name)]
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_classes_in_batches_of_one_give_the_same_importance(tiny_model: Callable[[str], Model]) -> None:
    model = tiny_model("dit")
    plans = [ProfilePlan(CapturePlan(images=4, steps=2, batch=size), profiled=2) for size in (4, 3, 1)]
    whole, *others = (profiled(model, plan) for plan in plans)
    theta = orthogonality_of(whole).importance(model.structure)
    for found in others:
        assert torch.allclose(whole.grams, found.grams, rtol=1e-3, atol=1e-4 * float(whole.grams.abs().max()))
        again = orthogonality_of(found).importance(model.structure)
        assert all(again[name] == pytest.approx(theta[name], abs=1e-3) for name in theta)


def test_pictures_in_several_batches_give_the_same_grams(unet: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = profiled(unet)
    parts = profiled(unet, replace(PLAN, capture=replace(PLAN.capture, batch=4)))
    assert torch.allclose(whole.grams, parts.grams, rtol=1e-3, atol=1e-4 * float(whole.grams.abs().max()))
    monkeypatch.setattr("engine.calibrate.profile.WAITING_BYTES", 0)
    monkeypatch.setattr("engine.calibrate.profile.SKETCH_FEATURES", 256)
    monkeypatch.setattr("engine.calibrate.profile.sketch", _narrow)
    folded = orthogonality_of(profiled(unet, replace(PLAN, capture=replace(PLAN.capture, batch=4))))
    gap = (folded.matrices - orthogonality_of(whole).matrices).abs()
    assert float(gap.mean()) < 0.2, "a sketch is an estimate of the same matrix"


def _narrow(flat: torch.Tensor, name: str) -> torch.Tensor:
    from engine.calibrate.correlation import sketch

    return sketch(flat, name, 256)


def test_halves_share_an_output_but_not_their_inputs(unet: Model) -> None:
    outputs = profiled(unet)
    inputs = profiled(unet, replace(PLAN, features="input"))
    half = next(x for x in unet.structure.choices if x.name.endswith(":0"))
    assert half.module in outputs.rows and half.name not in outputs.rows
    assert half.name in inputs.rows and f"{half.module}:1" in inputs.rows
    theta = orthogonality_of(outputs).importance(unet.structure)
    assert theta[half.name] == theta[f"{half.module}:1"]


def test_time_embeddings_are_silent_and_said_so(unet: Model) -> None:
    found = orthogonality_of(profiled(unet))
    assert any(row.startswith("time_embedding") for row in found.silent)
    assert any("same output for all pictures" in w for w in found.warnings)
    assert torch.isnan(found.gamma[:, found.rows.index(found.silent[0])]).all()


def test_interrupted_profiles_go_on_and_runs_repeat(unet: Model, tmp_path: Path) -> None:
    whole = profiled(unet)
    cancel, seen = threading.Event(), 0
    with pytest.raises(Cancelled):
        for event in profile(unet, PLAN, directory=tmp_path, cancel=cancel):
            seen += getattr(event, "doing", "").startswith("correlation")
            if seen == 1:
                cancel.set()
    assert [p.name for p in sorted((tmp_path / "grams").iterdir())] == ["head.json", "step-0000.safetensors"]
    again = profiled(unet, directory=tmp_path)
    assert torch.equal(whole.grams, again.grams) and whole.rows == again.rows
    with pytest.raises(StoreError, match=r"other settings \(profiled"):
        profiled(unet, replace(PLAN, profiled=3), directory=tmp_path)
    with pytest.raises(StoreError, match=r"other settings \(.*steps"):
        profiled(unet, replace(PLAN, capture=replace(PLAN.capture, steps=5)), directory=tmp_path)
    other = orthogonality_of(profiled(unet, replace(PLAN, capture=replace(PLAN.capture, first=6))))
    assert not torch.equal(other.matrices, orthogonality_of(whole).matrices), "other pictures"


def test_bad_input_is_one_sentence(unet: Model, tiny_model: Callable[[str], Model],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    for images in (1, 3):
        with pytest.raises(InputError, match=f"at least 4 pictures .* got {images}"):
            next(profile(unet, ProfilePlan(CapturePlan(images=images))))
    with pytest.raises(InputError, match="5 of 4 sampling steps"):
        profiled(unet, replace(PLAN, profiled=5))
    with pytest.raises(InputError, match="compared by output or input"):
        ProfilePlan(features="block")
    captured: Captured = last(capture(unet, PLAN.capture))
    with pytest.raises(InputError, match="same prompt"):
        next(profile_captured(unet, replace(captured, prompts=1), PLAN))
    with pytest.raises(StoreError, match="another model"):
        next(profile_captured(tiny_model("dit"), captured, PLAN))
    one = orthogonality_of(profiled(unet, ProfilePlan(CapturePlan(images=6, steps=1))))
    assert one.steps == (0,) and any("Only one sampling step" in w for w in one.warnings)


def test_layers_that_never_run_are_told_and_neutral(tiny_model: Callable[[str], Model]) -> None:
    model = tiny_model("dit")
    block = model.denoiser.transformer_blocks[1]
    own = block.forward
    try:
        block.forward = lambda hidden_states, *args, **kwargs: hidden_states
        found = orthogonality_of(profiled(model))
    finally:
        block.forward = own
    assert found.missing and all(r.startswith("transformer_blocks.1.") for r in found.missing)
    assert any("never ran" in w for w in found.warnings)
    theta = found.importance(model.structure)
    assert len({theta[r] for r in found.missing}) == 1


def test_the_biased_estimate_warns_of_saturation(unet: Model) -> None:
    made = profiled(unet)
    noise = torch.stack([gram(features(torch.randn(6, 4000, generator=torch.Generator().manual_seed(i))))
                         for i in range(len(made.rows))])
    noisy = replace(made, grams=torch.stack([noise, noise]))
    biased = orthogonality_of(noisy, debiased=False)
    assert any("saturated" in w for w in biased.warnings) and biased.biased_median > 0.9
    assert not any("saturated" in w for w in orthogonality_of(noisy).warnings)


def test_records_round_trip_and_are_found(unet: Model, tmp_path: Path) -> None:
    made: Orthogonality = last(score(unet, PLAN))
    path = orthogonality_path(unet.structure)
    save_orthogonality(path, made)
    found = find_orthogonality(unet.structure)
    assert found is not None and found.rows == made.rows and found.warnings == made.warnings
    assert torch.allclose(found.matrices, made.matrices, atol=1e-6) and found.matrix.shape == made.matrix.shape
    path.write_bytes(path.read_bytes()[:50])
    assert find_orthogonality(unet.structure) is None
    with pytest.raises(StoreError, match="cannot be read"):
        load_orthogonality(path)
    path.unlink()
    with pytest.raises(StoreError, match="another model"):
        replace(made, model="f" * 64).importance(unet.structure)


def test_scores_are_importance_times_error_and_linear_in_bits(unet: Model) -> None:
    made = orthogonality_of(profiled(unet))
    names = [x.name for x in unet.structure.choices]
    errors = Scores("weight-error", unet.structure.identity, "e", {n: {"uaq-4": 0.01, "uaq-2": 0.2} for n in names})
    theta = made.importance(unet.structure, Weighting(beta=3))
    useful = useful_scores(unet.structure, made, errors, Weighting(beta=3))
    assert useful.provider == PROVIDER and useful.is_damage
    assert useful.layers[names[3]] == pytest.approx({"uaq-4": theta[names[3]] * 0.01, "uaq-2": theta[names[3]] * 0.2})
    linear = linear_scores(unet.structure, made)
    c = made.importance(unet.structure, Weighting(tail=True))
    assert linear.provider == LINEAR
    assert linear.layers[names[3]]["uaq-4"] == pytest.approx(12 * c[names[3]])
    assert importances(linear) == pytest.approx(c)
    with pytest.raises(StoreError, match="another model"):
        useful_scores(unet.structure, made, replace(errors, model="f" * 64))
    with pytest.raises(StoreError, match="unit"):
        importances(useful)
