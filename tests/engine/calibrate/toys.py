"""Layers made by hand: with an outlier channel, flat, or with a dead channel."""

from __future__ import annotations

from typing import Any

import torch

from engine.calibrate.problem import LayerProblem
from engine.core.layer import Layer, Role
from engine.core.option import Option

INPUTS, POSITIONS = 96, 12


def problem(scales: torch.Tensor, *, kind: str = "linear", out: int = 24, bits: int = 6, weight_bits: int = 4,
            scheme: str = "static", **how: Any) -> LayerProblem:
    """A layer whose input channel c has standard deviation scales[c]; two timestep groups, every fourth input held."""
    generator = torch.Generator().manual_seed(0)
    channels = len(scales)
    shape = (out, channels) if kind == "linear" else (out, channels, 3, 3)
    side = (POSITIONS, channels) if kind == "linear" else (channels, 5, 5)
    x = torch.randn(INPUTS, *side, generator=generator)
    x *= scales if kind == "linear" else scales[:, None, None]
    weight = torch.randn(shape, generator=generator) / channels**0.5
    layer = Layer("toy", "toy", kind, shape, 0, channels, Role.OTHER, "")
    number = torch.arange(INPUTS)
    return LayerProblem(layer, weight, x, (number % 20).double() * 50 + 1, number % 2, number % 4 == 0,
                        Option("uaq", weight_bits), bits, scheme, how)
