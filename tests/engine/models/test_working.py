"""Activation memory: known peaks of small modules, the same on the meta device as in a real run, laws of size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.core.errors import ModelError
from engine.models.building import meta_twin
from engine.models.inputs import example_inputs
from engine.models.structure import read_structure
from engine.models.working import _at_size, peak_bytes, working_memory

N = 5


class Chain(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


@pytest.mark.parametrize(("modules", "floats"), [
    ((nn.Linear(4, 8),), 8), ((nn.Linear(4, 8), nn.ReLU()), 16), ((nn.Linear(4, 8), nn.ReLU(inplace=True)), 8),
    ((nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(2, 4)), 10), ((nn.Linear(4, 8), nn.Flatten(), nn.Linear(8, 4)), 12),
])
def test_known_peaks(modules: tuple[nn.Module, ...], floats: int) -> None:
    module = Chain(*modules).to("meta")
    inputs = {"x": torch.empty(N, 4, device="meta")}
    assert peak_bytes(module, inputs) == floats * N * 4
    assert peak_bytes(module, inputs, 16) == floats * N * 2


def test_attention_keeps_no_scores() -> None:
    q = torch.empty(1, 2, 1000, 8, device="meta")
    assert peak_bytes(lambda q: nn.functional.scaled_dot_product_attention(q, q, q), {"q": q}) == q.nbytes


@pytest.mark.parametrize("name", ["sd1", "dit", "ddpm"])
def test_the_meta_device_counts_what_a_real_run_has(name: str, tiny: Callable) -> None:
    from engine.models.loading import denoiser_of

    denoiser = denoiser_of(tiny(name))[1]
    twin = meta_twin(type(denoiser), dict(denoiser.config))
    shapes = example_inputs(twin, twin.config)

    def real(value: object) -> object:
        return torch.zeros_like(value, device="cpu") if isinstance(value, torch.Tensor) else value

    assert 0 < peak_bytes(denoiser, {k: real(v) for k, v in shapes.items()}) == peak_bytes(twin, shapes)


def test_packed_latents_have_the_tokens_of_a_picture(saved: Callable[[str], Path]) -> None:
    inputs = {"hidden_states": torch.empty(1, 16, 4), "img_ids": torch.empty(16, 3), "txt_ids": torch.empty(8, 3)}
    found = _at_size(inputs, 256)
    assert found["hidden_states"].shape == (1, 256, 4) and found["img_ids"].shape == (256, 3)
    assert found["txt_ids"] is inputs["txt_ids"]
    small, large = working_memory(saved("flux"), precision_bits=32), working_memory(saved("flux"), precision_bits=16)
    assert small.denoiser == 2 * large.denoiser


def test_models_with_and_without_weights(saved: Callable[[str], Path]) -> None:
    tiny = working_memory(saved("sd1"), precision_bits=32)
    assert tiny.decoder and tiny.peak == max(tiny.denoiser, tiny.decoder)
    assert working_memory(saved("sd1"), precision_bits=32, guided=False).denoiser * 2 == tiny.denoiser
    structure = read_structure("sd15")
    known = working_memory("sd15", precision_bits=structure.precision_bits)
    assert known.decoder is None
    # two latents of 64 x 64 with 320 channels are 10 MB; a U-Net keeps a dozen of those for its skips
    assert 10 * 2 * 320 * 64 * 64 * 4 < known.denoiser < 1e9
    with pytest.raises(ModelError, match="cannot be"):
        working_memory(saved("lumina2"), precision_bits=32)
