"""Call arguments fit every pipeline's signature, and the tiny pipelines make pictures with them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine.models.calls import call_arguments, conditioning
from engine.models.tiny import TINY

SIZES = {"hunyuan": 64, "lumina2": 64, "sana": 32}


@dataclass(frozen=True)
class Request:
    prompts: tuple[str, ...] = ("a red fox", "a tree")
    labels: tuple[int, ...] = ()
    negative: str = ""
    seeds: tuple[int, ...] = (1, 2)
    steps: int | None = 2
    guidance: float | None = 3.0
    height: int | None = 16
    width: int | None = 16


def request_for(name: str, **changes: Any) -> Request:
    size = SIZES.get(name, 16)
    labels = (3, 7) if name == "dit" else ()
    return Request(**{"height": size, "width": size, "labels": labels, **changes})


def generated(pipeline: Any, request: Request) -> np.ndarray:
    generators = [torch.Generator().manual_seed(seed) for seed in request.seeds]
    arguments = call_arguments(pipeline, request)
    with torch.no_grad():
        return pipeline(**arguments, generator=generators, output_type="np").images


def test_what_steers_the_pictures(tiny) -> None:
    kinds = {name: conditioning(tiny(name)) for name in TINY}
    assert kinds == dict.fromkeys(TINY, "text") | {"dit": "class", "ddpm": "none"}


@pytest.mark.parametrize("name", sorted(TINY))
def test_every_family_makes_pictures(name: str, tiny) -> None:
    request = request_for(name)
    images = generated(tiny(name), request)
    assert images.shape == (2, SIZES.get(name, 16), SIZES.get(name, 16), 3)
    assert np.isfinite(images).all()
    assert images.std() > 0.01
    assert np.array_equal(images, generated(tiny(name), request))


@pytest.mark.parametrize("name", sorted(TINY))
def test_nothing_is_passed_that_is_not_taken(name: str, tiny) -> None:
    pipeline = tiny(name)
    arguments = call_arguments(pipeline, request_for(name, negative="ugly"))
    inspect.signature(pipeline.__call__).bind(**arguments, generator=None, output_type="np")
    assert arguments["num_inference_steps"] == 2
    assert arguments.get("use_resolution_binning") in (None, False)
    assert arguments.get("clean_caption") in (None, False)


def test_the_length_of_the_text_is_what_the_encoder_can_take(tiny) -> None:
    assert call_arguments(tiny("pixart-alpha"), Request())["max_sequence_length"] == 120
    assert call_arguments(tiny("flux"), Request())["max_sequence_length"] == 512
    assert "max_sequence_length" not in call_arguments(tiny("sd1"), Request())
    short = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=77))
    pipeline = tiny("pixart-alpha")
    components = {**pipeline.components, "text_encoder": short}
    stand_in = type("PixArt", (), {"__call__": type(pipeline).__call__, "components": components})()
    assert call_arguments(stand_in, Request())["max_sequence_length"] == 77
    stand_in.components = {**pipeline.components, "tokenizer": SimpleNamespace(model_max_length=32)}
    assert call_arguments(stand_in, Request())["max_sequence_length"] == 32  # the rest would be masked padding


def test_negative_prompts_only_where_guidance_is_on(tiny) -> None:
    pipeline = tiny("sd1")
    assert call_arguments(pipeline, Request(negative="ugly"))["negative_prompt"] == ["ugly", "ugly"]
    assert "negative_prompt" not in call_arguments(pipeline, Request(negative="ugly", guidance=1.0))
    assert "negative_prompt" not in call_arguments(pipeline, Request())
    assert "negative_prompt" not in call_arguments(tiny("dit"), request_for("dit", negative="ugly"))
    changed = generated(pipeline, Request(negative="ugly"))
    assert not np.array_equal(changed, generated(pipeline, Request()))


def test_guidance_that_is_an_input_is_not_doubled(tiny) -> None:
    plain = call_arguments(tiny("flux"), Request())
    assert plain["guidance_scale"] == 3.0
    assert "true_cfg_scale" not in plain
    steered = call_arguments(tiny("flux"), Request(negative="ugly"))
    assert steered["true_cfg_scale"] == 3.0


def test_true_guidance_replaces_the_distilled_one() -> None:
    class Pipeline:
        def __init__(self) -> None:
            self.components = {"transformer": SimpleNamespace(config=SimpleNamespace(guidance_embeds=False))}

        def __call__(self, prompt=None, negative_prompt=None, true_cfg_scale=4.0, guidance_scale=None) -> None: ...

    arguments = call_arguments(Pipeline(), Request())
    assert arguments["true_cfg_scale"] == 3.0
    assert arguments["negative_prompt"] == [" ", " "]
    assert "guidance_scale" not in arguments


def test_what_is_open_is_the_pipelines_own(tiny) -> None:
    open_request = Request(steps=None, guidance=None, height=None, width=None)
    assert not {"num_inference_steps", "guidance_scale", "height", "width"} & set(
        call_arguments(tiny("sd1"), open_request))


def test_unconditional_batches_follow_the_seeds(tiny) -> None:
    assert call_arguments(tiny("ddpm"), Request(seeds=(1, 2, 3)))["batch_size"] == 3
