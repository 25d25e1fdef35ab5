"""Example inputs for one call of a denoiser on the meta device, from its configuration and forward signature.

A table maps each argument name to a builder; a builder returns None where the configuration does not call for the
argument. Sizes that do not matter to the graph (number of text tokens) are small and arbitrary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

TEXT_TOKENS = 8
PACKED_SIDE = 4  # token grid of models that take packed tokens
DEFAULT_SIDE = 32
LATENT_NAMES = ("sample", "hidden_states", "x")
TIME_NAMES = ("timestep", "timesteps", "timestep_ratio", "t")
# Configuration keys that hold the width of the text embedding, first one present wins.
TEXT_WIDTHS = ("joint_attention_dim", "caption_channels", "encoder_hid_dim", "text_embed_dim", "cap_feat_dim",
               "text_hidden_dim", "context_in_dim", "cross_attention_dim")


@dataclass(frozen=True)
class Call:
    """What the builders may look at: the configuration and the names of the forward arguments."""

    config: Mapping[str, Any]
    names: tuple[str, ...]

    def get(self, *keys: str) -> Any:
        """First configured value among these keys, or None."""
        return next((self.config[k] for k in keys if self.config.get(k) is not None), None)

    @property
    def packed(self) -> bool:
        """Whether pictures arrive as a row of tokens."""
        return bool({"img_ids", "img_shapes"} & set(self.names))

    @property
    def side(self) -> int:
        """Rows of the latent picture."""
        size = self.get("sample_size", "input_size")
        return int(size[0] if isinstance(size, (list, tuple)) else size or DEFAULT_SIDE)

    @property
    def tokens(self) -> int:
        """Picture tokens after patching."""
        patch = self.get("patch_size") or 1
        return PACKED_SIDE**2 if self.packed else (self.side // patch) ** 2


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _labels(*shape: int) -> torch.Tensor:
    return _meta(*shape, dtype=torch.long)


def _latent(call: Call) -> torch.Tensor:
    channels = int(call.get("in_channels"))
    return _meta(1, call.tokens, channels) if call.packed else _meta(1, channels, call.side, call.side)


def _text(call: Call) -> torch.Tensor | None:
    width = call.get(*TEXT_WIDTHS)
    # Where a second text encoder has an argument of its own, this one has the plain cross-attention width.
    width = call.get("cross_attention_dim") if "encoder_hidden_states_t5" in call.names else width
    width = max(width) if isinstance(width, (list, tuple)) else width
    return _meta(1, int(call.get("text_len") or TEXT_TOKENS), int(width)) if width else None


def _text_t5(call: Call) -> torch.Tensor:
    return _meta(1, int(call.get("text_len_t5") or TEXT_TOKENS), int(call.get("cross_attention_dim_t5")))


def _ids(call: Call, count: int) -> torch.Tensor:
    return _meta(count, len(call.get("axes_dims_rope", "axes_dim") or (0, 0, 0)))


def _pooled(call: Call) -> torch.Tensor | None:
    width = call.get("pooled_projection_dim")
    return _meta(1, int(width)) if width else None


def _classes(call: Call) -> torch.Tensor | None:
    if call.get("class_embed_type") in ("projection", "simple_projection"):
        return _meta(1, int(call.get("projection_class_embeddings_input_dim")))
    return _labels(1) if call.get("num_class_embeds", "class_embed_type", "num_embeds_ada_norm") else None


def _rotary(call: Call) -> tuple[torch.Tensor, torch.Tensor] | None:
    if call.get("pos_embed_max_size"):  # such models compute it themselves
        return None
    width = int(call.get("attention_head_dim"))
    return _meta(call.tokens, width), _meta(call.tokens, width)


def _added(call: Call) -> dict[str, torch.Tensor]:
    """Size, aspect and pooled-text conditions; models take from it what they know."""
    added = {"resolution": _meta(1, 2), "aspect_ratio": _meta(1, 1)}
    width, size_width = call.get("projection_class_embeddings_input_dim"), call.get("addition_time_embed_dim")
    if width and size_width:
        added |= {"text_embeds": _meta(1, width - 6 * size_width), "time_ids": _meta(1, 6)}
    if image_width := call.get("encoder_hid_dim"):
        added["image_embeds"] = _meta(1, image_width)
    return added


BUILDERS: dict[str, Callable[[Call], Any]] = {
    **dict.fromkeys(LATENT_NAMES, _latent),
    **dict.fromkeys(TIME_NAMES, lambda call: _meta(1)),
    "encoder_hidden_states": _text,
    "encoder_hidden_states_t5": _text_t5,
    "encoder_hidden_states_mask": lambda call: _meta(1, TEXT_TOKENS, dtype=torch.bool),
    "text_embedding_mask": lambda call: _meta(1, int(call.get("text_len") or TEXT_TOKENS)),
    "text_embedding_mask_t5": lambda call: _meta(1, int(call.get("text_len_t5") or TEXT_TOKENS)),
    "pooled_projections": _pooled,
    "class_labels": _classes,
    "added_cond_kwargs": _added,
    "guidance": lambda call: _meta(1) if call.get("guidance_embeds") else None,
    "img_ids": lambda call: _ids(call, PACKED_SIDE**2),
    "txt_ids": lambda call: _ids(call, TEXT_TOKENS),
    "img_shapes": lambda call: [(1, PACKED_SIDE, PACKED_SIDE)],
    "txt_seq_lens": lambda call: [TEXT_TOKENS],
    "image_rotary_emb": _rotary,
    "image_meta_size": lambda call: _meta(1, 6),
    "style": lambda call: _labels(1),
    "original_size": lambda call: _meta(1, 2),
    "target_size": lambda call: _meta(1, 2),
    "crop_coords": lambda call: _meta(1, 2),
}


# Arguments that most models do without: given where they are required, or where a run without them failed.
SPARED: dict[str, Callable[[Call], Any]] = {
    "encoder_attention_mask": lambda call: _meta(1, TEXT_TOKENS, dtype=torch.bool),
}


def example_inputs(model: nn.Module, config: Mapping[str, Any], *, sparing: bool = True) -> dict[str, Any]:
    """Keyword arguments for `model.forward`, on the meta device.

    Args:
        model: the module, whose signature is read.
        config: its configuration.
        sparing: leave out optional arguments that most models do without.

    Raises:
        TypeError: it requires an argument that no builder covers, or lacks a configuration value.
    """
    signature = inspect.signature(model.forward)
    call = Call(config, tuple(signature.parameters))
    found: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        builder = BUILDERS.get(name) or (SPARED.get(name) if required or not sparing else None)
        if builder:
            try:
                value = builder(call)
            except (TypeError, ValueError):
                raise TypeError(f"the configuration does not say how large the input {name!r} is") from None
            if value is not None:
                found[name] = value
        elif required:
            raise TypeError(f"no example of the input {name!r}")
    if "return_dict" in signature.parameters:
        found["return_dict"] = False
    return found
