"""Which pipelines can be opened: those that make pictures from text, class labels or nothing, told by signature."""

from __future__ import annotations

import inspect
import re
from typing import Any

from torch import nn

from engine.core.errors import ModelError
from engine.models.inputs import LATENT_NAMES, TIME_NAMES

# Arguments of a pipeline's call that take a picture, a mask, a depth map, a video or a sound.
PICTURE = re.compile(r"(\w+_)?(images?|masks?|depth_map|video|frames|audio|controls?|example)(_latents)?")
# Pictures that are always optional extras.
EXTRA = re.compile(
    r"(negative_)?ip_adapter_\w+|\w*(prompt|text)\w*_mask\w*|(negative_)?(attention_mask|prompt_embeds\w*)"
)
# Arguments that only pipelines have whose output is no picture.
NOT_A_PICTURE = re.compile(r"num_frames|video_length|num_videos_per_prompt|audio_\w+|frame_size|num_waveforms_\w+")
# Arguments that show that the picture is what the pipeline is about.
ABOUT_PICTURES = re.compile(r"strength|\w*(control|adapter|mask|image_guidance|depth|noise_level)\w*")
KNOWN = {"self", "prompt", "class_labels", "num_inference_steps", "args", "kwargs"}
WHAT_TO_DO = "open a text-to-image, class-conditional or unconditional model"


def check_pipeline_class(cls: type) -> None:
    """Refuse pipelines that start from pictures or do not make pictures, before anything is loaded.

    Raises:
        ModelError: one sentence that names the argument it was told by.
    """
    parameters = inspect.signature(cls.__call__).parameters
    other = next((name for name in parameters if NOT_A_PICTURE.fullmatch(name)), None)
    if other:
        raise ModelError(f"{cls.__name__} does not make single pictures (its call takes {other}); {WHAT_TO_DO}.")
    pictures = [n for n in parameters if PICTURE.fullmatch(n) and not EXTRA.fullmatch(n)]
    if pictures and not (pictures == ["image"] and _is_optional_reference(cls, parameters)):
        raise ModelError(f"{cls.__name__} is conditioned on pictures or video (its call takes {pictures[0]}); "
                         f"{WHAT_TO_DO}.")
    missing = [
        name for name, p in parameters.items()
        if p.default is p.empty and name not in KNOWN and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if missing:
        raise ModelError(f"{cls.__name__} needs {missing[0]}, which is neither a prompt nor a class; {WHAT_TO_DO}.")


def _is_optional_reference(cls: type, parameters: Any) -> bool:
    """Whether `image` is a reference that text-to-image works without: diffusers lists the pipeline as such."""
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    optional = parameters["image"].default is None and not any(ABOUT_PICTURES.fullmatch(n) for n in parameters)
    return optional and cls in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()


def is_denoiser_class(cls: Any) -> bool:
    """Whether a module class denoises: its forward takes a timestep and a picture."""
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        return False
    names = inspect.signature(cls.forward).parameters
    return any(n in names for n in TIME_NAMES) and any(n in names for n in LATENT_NAMES)


def check_channels(denoiser: nn.Module, vae: Any, name: str) -> None:
    """Refuse denoisers that take more channels than noise has: inpainting, depth and editing models.

    Raises:
        ModelError: they do.
    """
    takes = getattr(getattr(denoiser, "config", None), "in_channels", None)
    latent = getattr(getattr(vae, "config", None), "latent_channels", None)
    if not isinstance(takes, int) or not isinstance(latent, int):
        return
    packed = 4 * latent  # 2 x 2 patches as tokens
    if takes not in (latent, packed):
        raise ModelError(f"The denoiser of {name} takes {takes} channels but its latents have {latent}: it is "
                         f"conditioned on a picture (inpainting, depth or editing); {WHAT_TO_DO}.")
