"""Writes sdnq_0_2_8.safetensors: weights, and what sdnq 0.2.8 makes of them with groups of 64.

Not part of the tests (sdnq is no dependency); made with: pip install sdnq==0.2.8 && python make_sdnq_golden.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from sdnq.dequantizer import dequantize_weight
from sdnq.quantizer import sdnq_quantize_layer_weight

CASES = {
    "linear 128": ("Linear", (1, 128)), "linear 200": ("Linear", (1, 200)), "linear 24": ("Linear", (2, 24)),
    "conv2d 128": ("Conv2d", (1, 128, 1, 2)), "conv2d 8": ("Conv2d", (1, 8, 3, 3)), "conv1d 96": ("Conv1d", (1, 96, 1)),
}


def main() -> None:
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for name, (kind, shape) in CASES.items():
        weight = torch.randn(shape, generator=generator).half()
        tensors[name] = weight
        for dtype in ("uint2", "uint4", "int5", "int8"):
            done, parts = sdnq_quantize_layer_weight(
                weight.float(), layer_class_name=kind, weights_dtype=dtype, group_size=64)
            tensors[f"{name} {dtype}"] = dequantize_weight(
                dtype, parts["weight"], parts["scale"], zero_point=parts["zero_point"], group_size=done.group_size,
                result_shape=done.result_shape, quantized_weight_shape=done.quantized_weight_shape,
                layer_class_name=kind, dtype=torch.float32).reshape(shape).contiguous()
            stored = sum(part.nbytes for part in parts.values() if part is not None)
            tensors[f"{name} {dtype} bytes"] = torch.tensor(stored)
    save_file(tensors, Path(__file__).with_name("sdnq_0_2_8.safetensors"))


if __name__ == "__main__":
    main()
