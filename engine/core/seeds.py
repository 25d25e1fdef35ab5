"""Seeds by hashing: every image and trial has a generator of its own, the same on any machine."""

from __future__ import annotations

import hashlib

MAX_SEED = 2**32 - 1


def derive(*parts: object) -> int:
    """A seed in [0, 2^63) that depends on every part and on nothing else."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
