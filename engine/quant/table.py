"""The table of quantizers, and the one unit of weight error."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from engine.core.errors import OptionError
from engine.core.option import Option
from engine.quant import affine, bnb, groupwise, kmeans
from engine.quant.accelerated import ACCELERATED, accelerator
from engine.quant.jit import jit_loose, over_rows
from engine.quant.qweight import TAU, QuantizedWeight
from engine.quant.scaling import fold, stored_tau

Tensors = dict[str, torch.Tensor]
Quantizer = Callable[[torch.Tensor, Sequence[int], torch.dtype], dict[int, Tensors]]

_DTYPES = {16: torch.float16, 32: torch.float32}


def quantize(weight: torch.Tensor, option: Option, precision_bits: int = 16) -> QuantizedWeight:
    """One weight under one option; see `quantize_all`."""
    return quantize_all(weight, (option,), precision_bits)[option]


def quantize_all(weight: torch.Tensor, options: Iterable[Option],
                 precision_bits: int = 16) -> dict[Option, QuantizedWeight]:
    """One weight under several options, which share what can be shared (sorting).

    A graphics card, where there is one, does the searching for large weights.

    Args:
        weight: [O, in, *kernel], any float type and device.
        options: each at most once counted; the result is in this order.
        precision_bits: bits of stored deltas, zero points and codebooks, and of the untouched weight: 16 or 32.

    Raises:
        OptionError: the weight has NaN or infinite values, no values or fewer than two dimensions.
    """
    wanted = list(dict.fromkeys(options))
    if precision_bits not in _DTYPES:
        raise OptionError(f"Parameters are stored at 16 or 32 bits, not {precision_bits}; pass the checkpoint's.")
    source = weight.detach().cpu()
    plain = source.float().contiguous()
    _check(plain)
    device = accelerator(plain.numel())
    there = plain.to(device) if device else plain
    found: dict[Option, Tensors] = {}
    for method in dict.fromkeys(option.method for option in wanted):
        bits = [option.bits for option in wanted if option.method == method]
        if device and method in ACCELERATED:
            tensors = ACCELERATED[method](there, bits, _DTYPES[precision_bits])
        else:
            tensors = QUANTIZERS[method](source if method == "fp16" else plain, bits, _DTYPES[precision_bits])
        found.update({Option(method, b): t for b, t in tensors.items()})
    return {option: QuantizedWeight(option, tuple(weight.shape), found[option]) for option in wanted}


def quantize_scaled(weight: torch.Tensor, option: Option, tau: torch.Tensor | None,
                    precision_bits: int = 16) -> QuantizedWeight:
    """tau times a weight under an option, tau kept beside it at `precision_bits`; `quantize` where tau is None.

    Args:
        weight: [O, in / groups, *kernel].
        option: not the untouched one, which has no range to win.
        tau: factor per input channel, [in].
        precision_bits: as in `quantize_all`.

    Raises:
        OptionError: as `quantize_all`; tau does not fit the weight, or the layer stays untouched.
    """
    if tau is None:
        return quantize(weight, option, precision_bits)
    if option.is_untouched:
        raise OptionError("An untouched layer takes no scaling; leave its scaling out, or choose fewer bits.")
    kept = stored_tau(tau, precision_bits)
    scaled = quantize(fold(weight.detach().cpu().float(), kept), option, precision_bits)
    return QuantizedWeight(option, scaled.shape, {**scaled.tensors, TAU: kept.to(_DTYPES[precision_bits])})


def relative_error(weight: torch.Tensor, quantized: QuantizedWeight) -> float:
    """sum (w - w')^2 / sum w^2, the one unit of weight error; 0 where both sums are."""
    plain, copy = _rows(weight.detach().cpu().float()), _rows(quantized.dequantize())
    sums = np.empty((2, len(plain)))
    over_rows(functools.partial(_squared_sums, plain, copy, sums), len(plain), plain.size)
    error, power = float(sums[0].sum()), float(sums[1].sum())
    if error == 0:
        return 0.0
    return error / power if power else float("inf")


def _check(weight: torch.Tensor) -> None:
    if weight.ndim < 2 or weight.numel() == 0:
        raise OptionError(f"Cannot quantize a tensor of shape {list(weight.shape)}: expected [O, in, *kernel] with at "
                          f"least one weight; leave the layer untouched.")
    broken = int(np.count_nonzero(~np.isfinite(weight.numpy())))
    if broken:
        raise OptionError(f"{broken} of {weight.numel()} weights are NaN or infinite; the checkpoint is broken there: "
                          f"download or convert it again, or leave the layer untouched.")


def _rows(weight: torch.Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(weight.reshape(weight.shape[0], -1).numpy())


@jit_loose
def _squared_sums(weight: npt.NDArray[np.float32], copy: npt.NDArray[np.float32], sums: npt.NDArray[np.float64],
                  start: int, stop: int) -> None:
    """Per row, the squared error and the power."""
    for row in range(start, stop):
        error, power = 0.0, 0.0
        for i in range(weight.shape[1]):
            w = np.float64(weight[row, i])
            error += (w - np.float64(copy[row, i])) ** 2
            power += w * w
        sums[0, row], sums[1, row] = error, power


def _uaq(weight: torch.Tensor, bits: Sequence[int], dtype: torch.dtype) -> dict[int, Tensors]:
    return {b: affine.quantize(_rows(weight), b, dtype) for b in bits}


def _kmeans_c(weight: torch.Tensor, bits: Sequence[int], dtype: torch.dtype) -> dict[int, Tensors]:
    return kmeans.quantize_channels(_rows(weight), bits, dtype)


def _kmeans_a(weight: torch.Tensor, bits: Sequence[int], dtype: torch.dtype) -> dict[int, Tensors]:
    return kmeans.quantize_tensor(_rows(weight), bits, dtype)


def _rtn_g64(weight: torch.Tensor, bits: Sequence[int], dtype: torch.dtype) -> dict[int, Tensors]:
    return {b: groupwise.quantize(weight, b) for b in bits}


def _untouched(weight: torch.Tensor, bits: Sequence[int], dtype: torch.dtype) -> dict[int, Tensors]:
    """The checkpoint's own values; a bfloat16 weight stays bfloat16."""
    kept = weight.dtype if weight.dtype.itemsize == dtype.itemsize else dtype
    return {b: {"weight": weight.to(kept, copy=True, memory_format=torch.contiguous_format)} for b in bits}


QUANTIZERS: dict[str, Quantizer] = {
    "uaq": _uaq,
    "kmeans_c": _kmeans_c,
    "kmeans_a": _kmeans_a,
    "rtn_g64": _rtn_g64,
    "nf4": bnb.quantizer("nf4"),
    "fp4": bnb.quantizer("fp4"),
    "int8": bnb.quantizer("int8"),
    "fp16": _untouched,
}
