"""One layer alone: its inputs along sampling trajectories, what it computes, and how it will be quantized.

Inputs and outputs are those of the full-precision model. Since (X / tau)(tau W) is exact there, every layer's scaling
is a problem of its own (DMQ, Lee et al., ICCV 2025), whatever is done to the others.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.core.activation import STATIC
from engine.core.errors import InputError
from engine.core.layer import Layer
from engine.core.option import Option
from engine.quant.activation import CHANNEL_AXIS, StaticTable, quantize_online, simulate, static_parameters
from engine.quant.integer import simulated_layer
from engine.quant.scaling import channel_peaks, weight_peaks
from engine.quant.table import quantize_scaled

CONVOLUTION = ("stride", "padding", "dilation", "groups")
UNTOUCHED = "the layer is untouched"
CHUNK = 64  # inputs whose loss is computed together


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """What is needed to choose a layer's scaling.

    Attributes:
        layer: which.
        weight: its full-precision weight, float32 [O, in, *kernel].
        inputs: of this layer (or half), float32 [N, ...].
        timesteps: at which each was taken, float64 [N].
        groups: activation group of each, int64 [N].
        held: which are held out, bool [N]; the others teach.
        judge: which of the held-out ones judge what was learned, bool [N]; the others of them say when learning stops.
            None, or all of them: the same inputs do both.
        rising: whether timesteps rise towards the picture.
        option: how the weight will be stored.
        bits: of the activations; 0 leaves them in full precision.
        scheme: of the activations.
        how: stride, padding, dilation, groups of a convolution.
        precision_bits: of stored parameters.

    Raises:
        InputError: no inputs to learn from or to judge by.
    """

    layer: Layer
    weight: Tensor
    inputs: Tensor
    timesteps: Tensor
    groups: Tensor
    held: Tensor
    option: Option
    bits: int
    scheme: str = STATIC
    how: Mapping[str, Any] = field(default_factory=dict)
    precision_bits: int = 16
    judge: Tensor | None = None
    rising: bool = False

    def __post_init__(self) -> None:
        if not bool(self.held.any()) or bool(self.held.all()):
            raise InputError(f"{self.layer.name} has {len(self.inputs)} captured inputs, {int(self.held.sum())} of "
                             f"them held out; a scaling needs some to learn from and some to be judged by.")

    @property
    def judging(self) -> Tensor:
        """Inputs that decide whether a scaling is taken, bool [N]."""
        return self.held if self.judge is None or not bool(self.judge.any()) else self.judge

    @property
    def stopping(self) -> Tensor:
        """Inputs that decide when learning stops and which scaling is kept, bool [N]."""
        others = self.held & ~self.judging
        return others if bool(others.any()) else self.held

    @property
    def axis(self) -> int:
        """The channel axis of the inputs."""
        return CHANNEL_AXIS[self.layer.kind]

    @property
    def channels(self) -> int:
        """How many factors a scaling has."""
        return int(self.inputs.shape[self.axis])

    @property
    def divides(self) -> bool:
        """Whether the activations are divided by tau too.

        The online scheme keeps its own ranges: its scaling only equalizes the weights.
        """
        return bool(self.bits) and self.scheme == STATIC

    def output(self, x: Tensor, weight: Tensor) -> Tensor:
        """What the layer computes, without its bias, which cancels in every difference."""
        return simulated_layer(x, weight, self.layer.kind, None, **self.how)

    def sample_losses(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Squared error per sample, [B]: summed over the output channels, mean over the positions."""
        return (found - wanted).square().movedim(self.axis, -1).sum(-1).reshape(len(found), -1).mean(1)

    def peaks(self) -> tuple[Tensor, Tensor]:
        """Largest magnitude of activations and weights per input channel, [C] each."""
        return channel_peaks(self.inputs, self.axis), weight_peaks(self.weight, self.channels)

    @functools.cached_property
    def extremes(self) -> tuple[Tensor, Tensor]:
        """Least and largest value per teaching input and channel, [N, C] each."""
        rows = self.inputs[~self.held].movedim(self.axis, -1)
        rows = rows.flatten(1, -2) if rows.ndim > 2 else rows[:, None]
        return rows.amin(1), rows.amax(1)

    def table(self, tau: Tensor | None) -> StaticTable:
        """Ranges of x / tau per group, from the inputs that teach; a group without any takes those of all."""
        factors = torch.ones(self.channels) if tau is None else tau
        low, high = ((e / factors) for e in self.extremes)
        low, high, groups = low.amin(1), high.amax(1), self.groups[~self.held]
        count = int(self.groups.max()) + 1
        lows, highs = low.amin().repeat(count), high.amax().repeat(count)
        for g in range(count):
            own = groups == g
            if bool(own.any()):
                lows[g], highs[g] = low[own].amin(), high[own].amax()
        return StaticTable(lows, highs, tau)

    @torch.no_grad()
    def deployed_loss(self, tau: Tensor | None, among: Tensor) -> float:
        """Squared error on some inputs, bool [N], with the quantizers that will be used, relative to the output's
        power.

        Weights as the option stores them, activations by static tables or online; all timesteps count alike.
        """
        weight = quantize_scaled(self.weight, self.option, tau, self.precision_bits).dequantize()
        parameters = self.table(tau if self.divides else None).parameters(self.bits) if self.divides else None
        kept, groups = self.inputs[among], self.groups[among]
        error = power = 0.0
        for x, g in zip(kept.split(CHUNK), groups.split(CHUNK), strict=True):
            seen = x
            if parameters is not None:
                seen = simulate(x, *static_parameters(*parameters, g, x, self.layer.kind), self.bits)
            elif self.bits:
                seen = quantize_online(x, self.bits, self.layer.kind)
            wanted = self.output(x, self.weight)
            error += float((self.output(seen, weight) - wanted).double().square().sum())
            power += float(wanted.double().square().sum())
        return error / power if power else error


def convolution_of(module: nn.Module) -> dict[str, Any]:
    """Stride, padding, dilation and groups of a convolution; empty for a linear layer."""
    return {name: getattr(module, name) for name in CONVOLUTION if hasattr(module, name)}


def unsuited(module: nn.Module, option: Option) -> str:
    """Why a layer takes no scaling, in a few words; "" where it does."""
    if option.is_untouched:
        return UNTOUCHED
    if getattr(module, "groups", 1) != 1:
        return "a grouped convolution has no factor per input channel that a recipe could count"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return "padding other than zeros is no part of the reference arithmetic"
    return ""
