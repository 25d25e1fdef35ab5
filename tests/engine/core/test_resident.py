"""Memory as the system tells it."""

from __future__ import annotations

import sys

import pytest

from engine.core.resident import forget_peak, memory_of, peak_memory


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_a_peak_is_forgotten_with_what_made_it() -> None:
    held = bytearray(b"x" * 300_000_000)
    high = peak_memory()
    del held
    assert peak_memory() == high >= memory_of("self")["VmRSS"] + 200_000_000
    forget_peak()
    assert peak_memory() < high - 200_000_000


def test_a_process_that_has_ended_has_none() -> None:
    assert memory_of(2**22 + 1) == {}
