"""`nf4`, `fp4` and `int8` as bitsandbytes stores them (Linear only), and modules that execute with packed weights.

nf4 and fp4: blocks of 64 consecutive weights of the flattened tensor share their largest magnitude (absmax, float32);
w' = table[code] * absmax (QLoRA, Dettmers et al. 2023; no double quantization, so that stored bytes are exact). Two
codes to a byte, the first one high, as bitsandbytes packs them. int8: one absmax per output channel, float32;
w' = code * absmax / 127, the weights rounded to float16 first (LLM.int8(), Dettmers et al. 2022).

Constraints this answers:
* Codes come from bitsandbytes' own kernels, which run on a CPU too; dequantizing needs no bitsandbytes, so that stores
  and exports open without it. Both agree bit for bit (tested).
* bitsandbytes 0.50.2's CPU kernel for 4 bits takes a wrong absmax in rows of 16, 32, 48, 80, 96, 160 ... inputs
  (multiples of 16 that are none of 64), and odd rows would be compiled at run time. Such layers are dequantized by the
  same kernel as rows of 64, which is what the blocks are, and multiplied by torch; as that kernel does itself.
* Its CPU kernel for AVX512-BF16 rounds absmax and inputs to bfloat16 and takes only outputs in multiples of 32; it is
  used on request alone, for layers that fit.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from engine.core.errors import OptionError
from engine.core.sizes import BNB_BLOCK

if TYPE_CHECKING:
    from engine.quant.qweight import QuantizedWeight

Floats = npt.NDArray[np.float32]
Tensors = dict[str, torch.Tensor]

# bitsandbytes.functional.get_4bit_type, in order of codes.
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
FP4 = tuple(sign * value / 12 for sign in (1, -1) for value in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0))
TABLES = {"nf4": NF4, "fp4": FP4}
EXECUTABLE = (*TABLES, "int8")  # methods with a packed kernel
_INT8_STEP = 0.007874015718698502  # 1/127 as bitsandbytes multiplies by it
_LARGEST_HALF = 65504.0
_FAST_OUTPUTS = 32  # the bfloat16 kernel takes multiples of it
_BLOCKS_AT_ONCE = 1 << 14


def _library() -> Any:
    """bitsandbytes, imported without its notices about optional kernels."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes

    return bitsandbytes


def quantizer(method: str) -> Callable[[torch.Tensor, Sequence[int], torch.dtype], dict[int, Tensors]]:
    """The entry of the table of quantizers for `nf4`, `fp4` or `int8`."""

    def quantize(weight: torch.Tensor, bits: Sequence[int], dtype: torch.dtype) -> dict[int, Tensors]:
        if weight.ndim != 2:
            raise OptionError(f"{method} takes Linear layers [O, I] only, not a weight of shape {list(weight.shape)}; "
                              f"choose another option for this layer.")
        tensors = _int8(weight) if method == "int8" else _four_bits(weight, method)
        return dict.fromkeys(bits, tensors)

    return quantize


def _four_bits(weight: torch.Tensor, method: str) -> Tensors:
    codes, state = _library().functional.quantize_4bit(
        weight.float().contiguous(), blocksize=BNB_BLOCK, compress_statistics=False, quant_type=method,
        quant_storage=torch.uint8)
    return {"codes": codes.reshape(-1), "absmax": state.absmax.float()}


def _int8(weight: torch.Tensor) -> Tensors:
    largest = float(weight.abs().max())
    if largest > _LARGEST_HALF:
        raise OptionError(f"int8 rounds weights to float16 first, and a weight of {largest:.3g} does not fit; choose "
                          f"another option for this layer.")
    codes, absmax, _ = _library().functional.int8_vectorwise_quant(weight.half().contiguous())
    return {"codes": codes.reshape(-1).view(torch.uint8), "absmax": absmax.float()}


def dequantize_four_bits(table: tuple[float, ...]) -> Callable[[Tensors, int, Floats], None]:
    """The entry of the table of dequantizers for `nf4` or `fp4`."""
    levels = torch.tensor(table, dtype=torch.float32)

    def dequantize(tensors: Tensors, bits: int, out: Floats) -> None:
        weights, packed, absmax = out.size, tensors["codes"], tensors["absmax"]
        flat = out.reshape(-1) if out.flags.c_contiguous else np.empty(weights, np.float32)
        step = _BLOCKS_AT_ONCE * BNB_BLOCK
        for first in range(0, weights, step):
            part = packed[first // 2:(min(first + step, weights) + 1) // 2]
            codes = torch.stack((part >> 4, part & 15), dim=1).reshape(-1)[:weights - first]
            own = absmax[first // BNB_BLOCK:(first + step) // BNB_BLOCK].repeat_interleave(BNB_BLOCK)[:len(codes)]
            flat[first:first + len(codes)] = (levels[codes.long()] * own).numpy()
        if not out.flags.c_contiguous:
            out[:] = flat.reshape(out.shape)

    return dequantize


def dequantize_int8(tensors: Tensors, bits: int, out: Floats) -> None:
    """Write w' into out: float32 [O, I]."""
    codes = tensors["codes"].view(torch.int8).reshape(out.shape)
    out[:] = (codes * tensors["absmax"][:, None] * _INT8_STEP).numpy()


def packed_linear(weight: QuantizedWeight, bias: torch.Tensor | None, *, fast: bool = False) -> nn.Module:
    """A Linear that keeps its weight packed and executes on bitsandbytes' kernels.

    Args:
        weight: under `nf4`, `fp4` or `int8`, [O, I].
        bias: [O] or None.
        fast: use the bfloat16 kernel where processor and shape allow it (4 bits only; it rounds).

    Raises:
        OptionError: another method.
    """
    outputs, inputs = weight.shape
    method = weight.option.method
    if method not in EXECUTABLE:
        raise OptionError(f"{weight.option} has no kernel to execute on; expected nf4, fp4 or int8.")
    own_bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
    if method != "int8" and inputs % BNB_BLOCK:
        return _BlockwiseLinear(weight, own_bias)
    layer = _linear8(weight) if method == "int8" else _linear4(weight)
    if method != "int8":
        layer.support_avx512bf16_for_cpu &= fast and outputs % _FAST_OUTPUTS == 0
    layer.bias = own_bias
    _take_any_shape(layer)
    return layer.eval()


def _linear8(weight: QuantizedWeight) -> Any:
    bnb = _library()
    outputs, inputs = weight.shape
    codes = weight.tensors["codes"].view(torch.int8).reshape(outputs, inputs).clone()
    layer = bnb.nn.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False, device="meta")
    layer.weight = bnb.nn.Int8Params(codes, requires_grad=False, CB=codes, SCB=weight.tensors["absmax"].clone())
    return layer


def _linear4(weight: QuantizedWeight) -> Any:
    bnb = _library()
    outputs, inputs = weight.shape
    layer = bnb.nn.Linear4bit(inputs, outputs, bias=False, compress_statistics=False,
                              quant_type=weight.option.method, device="meta")
    layer.weight = bnb.nn.Params4bit(
        weight.tensors["codes"].clone().unsqueeze(1), quant_state=_state(weight, torch.Size(weight.shape)),
        blocksize=BNB_BLOCK, compress_statistics=False, quant_type=weight.option.method, bnb_quantized=True,
        module=layer)
    return layer


def _state(weight: QuantizedWeight, shape: torch.Size) -> Any:
    """bitsandbytes' record of how codes become weights."""
    method = weight.option.method
    return _library().functional.QuantState(
        absmax=weight.tensors["absmax"].clone(), shape=shape, blocksize=BNB_BLOCK, code=torch.tensor(TABLES[method]),
        quant_type=method, dtype=torch.float32)


class _BlockwiseLinear(nn.Module):
    """A Linear whose 4-bit weight is dequantized as rows of 64 at every call."""

    def __init__(self, weight: QuantizedWeight, bias: nn.Parameter | None) -> None:
        super().__init__()
        self._shape = tuple(weight.shape)
        self.out_features, self.in_features = self._shape  # pipelines read them (SDXL its additional embedding's)
        blocks = len(weight.tensors["absmax"])
        self._state = _state(weight, torch.Size((blocks, BNB_BLOCK)))
        codes = weight.tensors["codes"]
        padded = nn.functional.pad(codes, (0, blocks * BNB_BLOCK // 2 - codes.numel()))
        self.weight = nn.Parameter(padded.clone().unsqueeze(1), requires_grad=False)
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = _library().functional.dequantize_4bit(self.weight.data, self._state).reshape(-1)
        weight = flat[:self._shape[0] * self._shape[1]].view(self._shape).to(x.dtype)
        return nn.functional.linear(x, weight, self.bias)


def _take_any_shape(layer: nn.Module) -> None:
    """Let a layer see [rows, I], whatever the input's leading dimensions: Linear8bitLt fails on four of them."""
    forward = layer.forward

    def flattened(x: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = forward(x.reshape(-1, x.shape[-1]))
        return rows.reshape(*x.shape[:-1], rows.shape[-1])

    layer.forward = flattened


def _share_hooks(original: nn.Module, packed: nn.Module) -> None:
    """Both have the same hooks from here on, not copies: one that is removed from either is gone from both."""
    for kind in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks",
                 "_forward_hooks_with_kwargs", "_forward_hooks_always_called"):
        setattr(packed, kind, getattr(original, kind))


@contextlib.contextmanager
def executed(root: nn.Module, weights: Mapping[str, QuantizedWeight],
             reload: Callable[[str], torch.Tensor] | None = None, *, fast: bool = False) -> Iterator[None]:
    """Within the block the named Linear modules of `root` execute with packed weights; afterwards all is as before.

    Their hooks stay on: what quantizes their inputs, or watches them, goes on doing so.

    Args:
        root: the model, on the CPU.
        weights: module path -> its weight under `nf4`, `fp4` or `int8`.
        reload: module path -> its original weight. If given, the originals' memory is released within the block and
            the weights are read back bit for bit at its end; otherwise they are kept aside.
        fast: see `packed_linear`.

    Raises:
        OptionError: a named module is no Linear, or cannot be executed.
    """
    originals = {name: root.get_submodule(name) for name in weights}
    wrong = [name for name, module in originals.items() if not isinstance(module, nn.Linear)]
    if wrong:
        raise OptionError(f"{wrong[0]} is no Linear layer; bitsandbytes executes Linear layers only.")
    packed = {name: packed_linear(weights[name], module.bias, fast=fast) for name, module in originals.items()}
    del weights  # a caller that keeps none either has each packed weight in memory once
    shapes = {name: module.weight.shape for name, module in originals.items()}
    try:
        for name, module in packed.items():
            _share_hooks(originals[name], module)
            root.set_submodule(name, module)
            if reload is not None:
                original = originals[name].weight
                original.data = torch.empty(0, dtype=original.dtype)
        yield
    finally:
        for name, module in originals.items():
            if reload is not None and module.weight.shape != shapes[name]:
                module.weight.data = reload(name).to(module.weight.dtype, copy=True)
            root.set_submodule(name, module)
