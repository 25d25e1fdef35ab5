"""What can be quantized, as data: one weight tensor, or one half of a split one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a layer does in the denoiser; drives presets (`by role`), selection by type and the GNN's type code."""

    INPUT = "input"  # conv_in, patch embedding
    OUTPUT = "output"  # conv_out, proj_out of a transformer
    TIME = "time embedding"
    CONDITION = "condition embedding"  # caption, class or size conditioning
    MODULATION = "modulation"  # adaLN linears, resnet time projections
    QUERY = "attention q"
    KEY = "attention k"
    VALUE = "attention v"
    ATTENTION_OUT = "attention out"
    FEED_FORWARD = "feed-forward"
    PROJECTION = "projection"  # proj_in / proj_out around transformer blocks
    RESNET = "resnet conv"
    SKIP = "skip"  # 1x1 shortcut, skip_linear
    SAMPLER = "down/up sampler"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Layer:
    """One quantizable weight.

    Attributes:
        name: unique key. The module path; halves of a split tensor end in `:0` (trunk) and `:1` (skip).
        module: path of the module that owns the tensor.
        kind: `linear`, `conv1d` or `conv2d`.
        shape: [O, in, *kernel] of this layer (a half has its own `in`).
        start, stop: input-channel slice of the module's weight that this layer covers.
        role: see `Role`.
        block: id of the block (node of the block graph) it belongs to.
        modules: every module path that uses this very tensor (shared storage).
        tie: name of the layer whose choice this one copies (each keeps its own bytes), or "".
    """

    name: str
    module: str
    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int
    role: Role
    block: str
    modules: tuple[str, ...] = ()
    tie: str = ""

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def out_channels(self) -> int:
        """O."""
        return self.shape[0]

    @property
    def inputs_per_channel(self) -> int:
        """I = in x kernel, flattened."""
        return math.prod(self.shape[1:])

    @property
    def choice(self) -> str:
        """Key under which recipes hold this layer's option."""
        return self.tie or self.name
