"""Arithmetic that measurements can rest on: plain float32 and the same bits every time, also on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Within the block CUDA uses no TF32 and only deterministic convolutions; without effect on a CPU.

    TF32 keeps 10 bits of the mantissa, which is an error about as large as that of 8-bit weights. The switches are
    the process's own, so they are put back afterwards.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32 = False, True, False, False
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32 = before
