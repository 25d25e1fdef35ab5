"""Recorded latents as pictures: what sampling looked like after each step.

Constraint: pipelines decode each in their own way and offer no call for it alone, so the common way is taken (scale and
shift of the autoencoder's config, the pipeline's own unpacking where latents are sequences) and checked against the
finished picture; where that does not come out, it is said instead of showing something else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.core.errors import ModelError
from engine.live.arithmetic import exact_arithmetic
from engine.live.generate import Picture
from engine.live.model import Model

AT_ONCE = 8
PACKED = 2  # dimensions of latents that are a sequence of patches
LEVELS = 3.0  # mean difference, in 255ths, to the finished picture that is still the same picture


def step_pictures(model: Model, picture: Picture) -> np.ndarray:
    """Every recorded step of a picture, uint8 [T, H, W, 3]; noise at first, the finished picture last.

    Raises:
        ModelError: no latents were recorded, or this pipeline's latents cannot be decoded one by one.
    """
    if picture.latents is None:
        raise ModelError("The picture was made without recording its latents; make it again.")
    parts = [decode(model, part, picture.pixels.shape[:2]) for part in picture.latents.split(AT_ONCE)]
    found = np.concatenate(parts)
    ends = found[-1].astype(np.float32), picture.pixels.astype(np.float32)
    if found.shape[1:] != picture.pixels.shape or float(np.abs(ends[0] - ends[1]).mean()) > LEVELS:
        raise _refusal(model)
    return found


def decode(model: Model, latents: Tensor, size: tuple[int, ...]) -> np.ndarray:
    """Latents [N, ...] as uint8 [N, H, W, 3]; size: (H, W) of the pictures.

    Raises:
        ModelError: as `step_pictures`.
    """
    vae = getattr(model.pipeline, "vae", None)
    with torch.no_grad(), exact_arithmetic():
        x = latents if vae is None else _decoded(model, vae, latents, size)
        levels = ((x.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    if levels.ndim != 4:
        raise _refusal(model)
    shown = levels.permute(0, 2, 3, 1)
    return (shown[..., :1].expand(*shown.shape[:3], 3) if shown.shape[3] < 3 else shown[..., :3]).numpy()


def _decoded(model: Model, vae: Any, latents: Tensor, size: tuple[int, ...]) -> Tensor:
    unpack = getattr(model.pipeline, "_unpack_latents", None)
    try:
        if latents.ndim - 1 == PACKED and unpack is not None:
            latents = unpack(latents, size[0], size[1], model.pipeline.vae_scale_factor)
        scaled = latents.to(model.device, vae.dtype) / float(getattr(vae.config, "scaling_factor", None) or 1)
        shifted = scaled + float(getattr(vae.config, "shift_factor", None) or 0)
        result = vae.decode(shifted, return_dict=False)[0]
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        raise _refusal(model) from None
    assert isinstance(result, Tensor)
    return result


def _refusal(model: Model) -> ModelError:
    return ModelError(f"{type(model.pipeline).__name__} decodes its latents in a way of its own, so its steps cannot "
                      f"be shown as pictures; the errors per step are shown all the same.")
