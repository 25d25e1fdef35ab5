"""Quantizers for an accelerator against the compiled loops and the exact optimum; on the CPU, and on a GPU if asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.bench.kmeans import _optimum
from engine.core.option import Option, parse_option
from engine.quant import accelerated, table
from engine.quant.accelerated import ACCELERATED
from engine.quant.qweight import QuantizedWeight
from engine.quant.table import quantize

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def weights(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy((np.random.default_rng(seed).standard_t(4, shape) * 0.02).astype(np.float32))


def made(weight: torch.Tensor, option: Option, device: str) -> torch.Tensor:
    tensors = ACCELERATED[option.method](weight.to(device), [option.bits], torch.float32)[option.bits]
    assert all(t.device.type == "cpu" for t in tensors.values())
    return QuantizedWeight(option, tuple(weight.shape), tensors).dequantize()


def excess(rows: np.ndarray, copy: np.ndarray, clusters: int) -> float:
    """Squared error over the least possible, minus 1, at its worst over rows."""
    centred = np.sort(rows.astype(np.float64) - rows.mean(axis=1, keepdims=True, dtype=np.float64), axis=1)
    errors = ((rows.astype(np.float64) - copy) ** 2).sum(axis=1)
    return max(float(e) / _optimum(c, clusters) for e, c in zip(errors, centred, strict=True)) - 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_uniform_affine_is_that_of_the_compiled_loops(bits: int, device: str) -> None:
    weight = weights((24, 16, 3, 3), bits)
    weight[3] = 0.25
    weight[4] = 0
    option = Option("uaq", bits)
    ours, theirs = made(weight, option, device), quantize(weight, option, 32).dequantize()
    differ = (ours != theirs).flatten(1).any(1)
    assert differ.float().mean() < 0.1  # a tie between two ranges
    assert ((ours - weight).square().sum() / (theirs - weight).square().sum()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["kmeans_c-2", "kmeans_c-3", "kmeans_c-4", "kmeans_c-6"])
def test_channels_are_a_hair_above_the_optimum(name: str, device: str) -> None:
    option = parse_option(name)
    weight = torch.cat([weights((6, 1152)), torch.randn(4, 1152, generator=torch.Generator().manual_seed(1)),
                        torch.rand(2, 1152, generator=torch.Generator().manual_seed(2))])
    assert excess(weight.numpy(), made(weight, option, device).numpy(), 2**option.bits) < 5e-3


@pytest.mark.parametrize("device", DEVICES)
def test_a_whole_tensor_is_a_hair_above_the_optimum(device: str) -> None:
    weight = weights((40, 500))
    copy = made(weight, Option("kmeans_a", 4), device)
    assert copy.unique().numel() == 16
    assert excess(weight.reshape(1, -1).numpy(), copy.reshape(1, -1).numpy(), 16) < 5e-3


def test_few_values_are_kept_as_they_are() -> None:
    weight = torch.tensor([[3.0, 1, 1, 2], [5, 5, 5, 5]])
    tensors = ACCELERATED["kmeans_c"](weight, [3], torch.float32)[3]
    assert tensors["codebook"].tolist() == [[1, 2, 3, 3, 3, 3, 3, 3], [5] * 8]
    assert (made(weight, Option("kmeans_c", 3), "cpu") == weight).all()


def test_spikes_and_far_values(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    spikes = np.where(rng.uniform(size=600) < 0.5, -1, 1) + 1e-3 * rng.normal(size=600)
    far = rng.normal(size=600)
    far[:2] = 1e4, -3e3
    zeros = np.where(rng.uniform(size=600) < 0.5, 0, rng.normal(size=600))
    rows = np.stack([spikes, far, zeros]).astype(np.float32)
    copy = made(torch.from_numpy(rows), Option("kmeans_c", 3), "cpu").numpy()
    assert excess(rows, copy, 8) < 0.02


def test_large_weights_go_to_the_accelerator_and_small_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def there(count: int) -> torch.device | None:
        asked.append(count)
        return torch.device("cpu") if count >= accelerated.WORTH_IT else None

    monkeypatch.setattr(table, "accelerator", there)
    used: list[str] = []
    monkeypatch.setitem(ACCELERATED, "uaq", lambda *given: used.append("uaq") or accelerated.uaq(*given))
    large, small = weights((64, 1024)), weights((8, 64))
    assert quantize(large, Option("uaq", 4)).size_bytes == quantize(weights((64, 1024)), Option("uaq", 4)).size_bytes
    quantize(small, Option("uaq", 4))
    assert asked == [65536, 65536, 512] and used == ["uaq", "uaq"]
