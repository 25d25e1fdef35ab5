"""The arguments of a pipeline's call, chosen from its signature and its components' configurations.

Constraints: nothing is passed that the call does not take; every image has a generator of its own; prompts are not
rewritten (no caption cleaning), sizes are not rounded to a table's (where a size is in the table, binning would not
change it), and no text encoder is asked for more positions than it has.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

# Called this way, an argument of guidance counts as classifier-free when it is above 1.
GUIDED_ABOVE = 1.0
# What some pipelines call the guidance that needs a second, unconditional pass, beside a distilled one.
TRUE_GUIDANCE = "true_cfg_scale"


class Asked(Protocol):
    """What a request must have; see `engine.live.request.Request`."""

    prompts: tuple[str, ...]
    labels: tuple[int, ...]
    negative: str
    seeds: tuple[int, ...]
    steps: int | None
    guidance: float | None
    height: int | None
    width: int | None


def conditioning(pipeline: Any) -> str:
    """What steers the pictures: "text", "class" or "none"."""
    names = _parameters(pipeline)
    return "text" if "prompt" in names else "class" if "class_labels" in names and _classes(pipeline) else "none"


def call_arguments(pipeline: Any, request: Asked) -> dict[str, Any]:
    """Keyword arguments of `pipeline(...)` for this request; generators and the output type are the caller's.

    What the request leaves open (None) is left to the pipeline's own default.
    """
    names = _parameters(pipeline)
    kind = conditioning(pipeline)
    asked: dict[str, Any] = {
        "num_inference_steps": request.steps, "height": request.height, "width": request.width,
        "num_images_per_prompt": 1, "clean_caption": False, "use_resolution_binning": False,
    }
    if kind == "text":
        asked["prompt"] = list(request.prompts)
        asked |= _guidance(pipeline, names, request)
        asked["max_sequence_length"] = _positions(pipeline, names)
    else:
        asked["guidance_scale"] = request.guidance
        asked["class_labels"] = list(request.labels) if kind == "class" else None
        asked["batch_size"] = max(len(request.labels), len(request.seeds))
    return {name: value for name, value in asked.items() if name in names and value is not None}


def _parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(pipeline).__call__).parameters


def _classes(pipeline: Any) -> bool:
    """Whether the denoiser has classes to choose from (some calls take labels that most checkpoints ignore)."""
    configs = [getattr(c, "config", {}) for c in pipeline.components.values()]
    keys = ("num_class_embeds", "num_embeds_ada_norm", "class_embed_type")
    return any(getattr(config, key, None) for config in configs for key in keys)


def _guidance(pipeline: Any, names: Mapping[str, Any], request: Asked) -> dict[str, Any]:
    """Guidance and negative prompt, the latter only where the call takes one and guidance makes a difference.

    Calls with a "true" guidance of their own use that one unless the denoiser was trained to take guidance as input.
    """
    embedded = any(getattr(getattr(c, "config", None), "guidance_embeds", False) for c in pipeline.components.values())
    only_true = TRUE_GUIDANCE in names and not embedded
    negative = request.negative or (" " if only_true else "")
    asked: dict[str, Any] = {TRUE_GUIDANCE if only_true else "guidance_scale": request.guidance}
    if negative and "negative_prompt" in names and (request.guidance is None or request.guidance > GUIDED_ABOVE):
        asked["negative_prompt"] = [negative] * len(request.prompts)
        asked[TRUE_GUIDANCE] = request.guidance
    return asked


def _positions(pipeline: Any, names: Mapping[str, inspect.Parameter]) -> int | None:
    """The call's own text length, cut to what tokenizers and text encoders can take; None = no such argument.

    Calls pad to it: beyond what the tokenizer takes there is nothing but masked padding, which only costs time.
    """
    wanted = names["max_sequence_length"].default if "max_sequence_length" in names else None
    if not isinstance(wanted, int):
        return None
    limits = [wanted]
    for name, component in pipeline.components.items():
        number = name.rpartition("_")[2]
        if name.startswith("text_encoder") and _takes_length(pipeline, number):
            limit = getattr(getattr(component, "config", None), "max_position_embeddings", None)
            limits += [limit] if isinstance(limit, int) else []
            tokenizer = pipeline.components.get(name.replace("text_encoder", "tokenizer"))
            tokens = getattr(tokenizer, "model_max_length", None)
            limits += [tokens] if isinstance(tokens, int) else []
    return min(limits)


def _takes_length(pipeline: Any, number: str) -> bool:
    """Whether the length argument goes to this text encoder: to the last of several, or to the only one."""
    encoders = sorted(k for k, c in pipeline.components.items() if k.startswith("text_encoder") and c is not None)
    return bool(encoders) and encoders[-1].rpartition("_")[2] == number

