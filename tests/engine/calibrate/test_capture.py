"""Trajectories: what is replayed is what the pipeline computed; halves are told apart; interrupted runs go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.calibrate.capture import Call, Captured, CapturePlan, calibration_request, capture, replay
from engine.calibrate.files import HEAD, Packer, unpack
from engine.core.errors import Cancelled, InputError, StoreError
from engine.live.generate import pictures
from engine.live.model import Model
from engine.providers.prompts import split_of

PLAN = CapturePlan(images=3, steps=3, batch=2)


def captured_of(model: Model, plan: CapturePlan = PLAN, **kwargs: Any) -> Captured:
    found = [*capture(model, plan, **kwargs)][-1]
    assert isinstance(found, Captured)
    return found


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "pixart-alpha", "dit", "hunyuan", "sana", "lumina2",
                                  "ddpm", pytest.param("flux", marks=pytest.mark.slow)])
def test_replayed_calls_give_what_the_pipeline_computed(tiny_model: Callable[[str], Model], name: str) -> None:
    model = tiny_model(name)
    outputs: list[torch.Tensor] = []

    def note(_: Any, args: Any, result: Any) -> None:
        outputs.append((result[0] if isinstance(result, tuple) else result.sample).clone())

    hook = model.denoiser.register_forward_hook(note)
    found = captured_of(model)
    made, outputs[:] = list(outputs), []
    calls = list(replay(model, found))
    hook.remove()
    assert len(made) == len(outputs) == len(calls)
    assert all(torch.equal(a, b) for a, b in zip(made, outputs, strict=True))
    assert len(found.timesteps) == 3 and {c.step for c in calls} == {0, 1, 2} and found.images == 3
    assert {i for c in calls for i in c.images} == {0, 1, 2}
    # every picture's own half once per step, whatever guidance does
    for step in range(3):
        rows = [len(c.conditional) for c in calls if c.step == step]
        assert sum(rows) == 3


def encoded(model: Model, call: Call) -> torch.Tensor:
    return call.kwargs["encoder_hidden_states" if "encoder_hidden_states" in call.kwargs else "class_labels"]


@pytest.mark.parametrize(("name", "first_half"), [("sd1", False), ("dit", True), ("pixart-alpha", False)])
def test_the_conditional_half_is_the_one_that_differs(tiny_model: Callable[[str], Model], name: str,
                                                      first_half: bool) -> None:
    """Stable Diffusion puts the unconditional half first, DiT last: told by the data, not by the name."""
    call = next(captured_of(tiny_model(name)).calls())
    assert call.rows == 4 and call.conditional == (range(2) if first_half else range(2, 4))


@pytest.mark.parametrize("name", ["dit", "sd1"])
def test_a_batch_of_one_is_cut_where_larger_ones_are(tiny_model: Callable[[str], Model], name: str) -> None:
    """One picture shows no difference between pictures; neither does a batch of one label."""
    model = tiny_model(name)
    whole, three, one = (captured_of(model, CapturePlan(images=4, steps=2, batch=size)) for size in (4, 3, 1))
    half = 0 if name == "dit" else 1
    expected = {4: range(4 * half, 4 * half + 4), 3: range(3 * half, 3 * half + 3), 1: range(half, half + 1)}
    for found in (whole, three, one):
        assert all(c.conditional == expected[len(c.images)] for c in found.calls())


def test_prompts_are_of_the_calibration_part_only(unet: Model) -> None:
    split = split_of(unet)
    request = calibration_request(unet, CapturePlan(images=200))
    assert set(request.prompts) <= set(split.calibration)
    assert not set(request.prompts) & (set(split.study) | set(split.final))
    other = calibration_request(unet, CapturePlan(images=200, first=200))
    assert not set(request.seeds) & set(other.seeds)


def test_text_is_stored_once_for_all_steps(unet: Model, tmp_path: Path) -> None:
    found = captured_of(unet, directory=tmp_path / "run")
    _, about = found.folder.load(found.parts[0])
    places = [row["arguments"]["tuple"][1]["map"]["encoder_hidden_states"]["tensor"] for row in about["calls"]]
    assert len(places) == 3 and len(set(places)) == 1
    latents = [row["arguments"]["tuple"][0]["tuple"][0]["tensor"] for row in about["calls"]]
    assert len(set(latents)) == 3


def test_interrupted_captures_go_on_and_equal_whole_ones(unet: Model, tmp_path: Path) -> None:
    whole = captured_of(unet)
    cancel = threading.Event()
    seen = 0
    with pytest.raises(Cancelled):
        for _ in capture(unet, PLAN, directory=tmp_path / "run", cancel=cancel):
            seen += 1
            if seen == 4:  # in the second part
                cancel.set()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [HEAD, "images-00000.safetensors"]
    again = captured_of(unet, directory=tmp_path / "run")
    for a, b in zip(whole.calls(), again.calls(), strict=True):
        assert (a.step, a.timestep, a.images, a.conditional) == (b.step, b.timestep, b.images, b.conditional)
        assert torch.equal(a.args[0], b.args[0])
        assert torch.equal(encoded(unet, a), encoded(unet, b))
    assert captured_of(unet, directory=tmp_path / "run").about == whole.about, "nothing is made a second time"


def test_capturing_changes_no_picture_and_leaves_no_hook(unet: Model) -> None:
    request = calibration_request(unet, PLAN)
    before = [p.pixels for p in pictures(unet, request, batch=2)]
    hooks = len(unet.denoiser._forward_pre_hooks)
    captured_of(unet)
    assert len(unet.denoiser._forward_pre_hooks) == hooks
    assert all((a == p.pixels).all() for a, p in zip(before, pictures(unet, request, batch=2), strict=True))


def test_other_settings_other_models_and_damage_are_refused(unet: Model, tiny_model: Callable[[str], Model],
                                                            tmp_path: Path) -> None:
    found = captured_of(unet, directory=tmp_path / "run")
    with pytest.raises(StoreError, match=r"other settings \(.*steps"):
        captured_of(unet, CapturePlan(images=3, steps=4, batch=2), directory=tmp_path / "run")
    with pytest.raises(StoreError, match="other settings"):
        captured_of(tiny_model("dit"), directory=tmp_path / "run")
    with pytest.raises(StoreError, match="another model"):
        next(replay(tiny_model("dit"), found))
    part = tmp_path / "run" / "images-00000.safetensors"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(StoreError, match="remove it"):
        list(found.calls())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note.txt").write_text("mine")
    with pytest.raises(StoreError, match="empty folder"):
        captured_of(unet, directory=tmp_path / "other")
    for bad in ({"images": 0}, {"batch": 0}, {"first": -1}):
        with pytest.raises(InputError, match="at least one picture"):
            CapturePlan(**bad)
    with pytest.raises(InputError, match="number of steps"):
        captured_of(unet, CapturePlan(images=1, steps=0))


def test_nested_arguments_round_trip() -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    value = ((shared, None, 3), {"a": [shared, {"b": True}], "c": shared.t(), "d": "text"})
    packer = Packer()
    skeleton = packer.pack(value)
    assert len(packer.tensors) == 2
    (args, kwargs) = unpack(skeleton, packer.tensors, torch.device("cpu"))
    assert torch.equal(args[0], shared) and args[1:] == (None, 3) and isinstance(kwargs["a"], list)
    assert torch.equal(kwargs["c"], shared.t()) and kwargs["a"][1] == {"b": True}
    shared += 1
    packer.pack(shared)
    assert len(packer.tensors) == 3, "the same memory with other values is another tensor"
    with pytest.raises(StoreError, match="cannot be captured"):
        packer.pack(object())
    with pytest.raises(StoreError, match="damaged"):
        unpack({"nothing": 1}, {}, torch.device("cpu"))
