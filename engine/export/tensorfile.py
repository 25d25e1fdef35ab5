"""Write a safetensors file tensor by tensor, so that memory is bounded by the largest one.

Layout (safetensors): 8 bytes little-endian length of the header, the header in JSON, the tensors without gaps. Wide
types come first, which keeps every tensor aligned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}

Spec = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


class TensorFile:
    """A safetensors file being written; `order` is the order in which tensors have to come.

    Several pieces may fill one tensor. Use as a context manager: closing checks that everything came.
    """

    def __init__(self, path: Path, tensors: Spec) -> None:
        """`tensors`: name -> dtype and shape.

        Raises:
            OSError: it cannot be written.
        """
        self.order = sorted(tensors, key=lambda name: -tensors[name][0].itemsize)
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        place = 0
        for name in self.order:
            dtype, shape = tensors[name]
            end = place + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [place, end]}
            place = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._left = place
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def append(self, tensor: torch.Tensor) -> None:
        """The next bytes: a whole tensor or a piece of one, in its stored dtype."""
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self._left -= data.numel()
        self._file.write(memoryview(data.numpy()))

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._file.close()
        assert kind is not None or self._left == 0, f"{self._left} bytes did not come"
