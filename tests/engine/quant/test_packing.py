"""Packing is the bit stream it says it is, at every width and length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.quant.packing import pack, packed_size, unpack, unpack_range


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 8), st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_stream_is_the_definition_and_round_trips(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, count, dtype=np.uint8)
    packed = pack(torch.from_numpy(codes), bits)
    stream = (codes[:, None] >> np.arange(bits)) & 1
    assert packed.numpy().tolist() == np.packbits(stream, bitorder="little").tolist()
    assert packed.numel() == packed_size(count, bits)
    assert unpack(packed, bits, count).numpy().tolist() == codes.tolist()


@pytest.mark.parametrize("bits", range(2, 9))
def test_any_range_of_a_long_stream(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (200_003,), dtype=torch.uint8, generator=torch.Generator().manual_seed(bits))
    packed = pack(codes.view(-1), bits)
    assert torch.equal(unpack(packed, bits, codes.numel()), codes)
    for start, count in ((0, 5), (3, 2), (7, 1), (13, 4096), (199_990, 13), (8, 0)):
        part = np.empty(count, np.uint8)
        unpack_range(packed.numpy(), bits, start, part)
        assert part.tolist() == codes[start:start + count].tolist()
