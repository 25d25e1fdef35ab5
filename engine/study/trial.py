"""A trial as data: its recipe, where it stands, and what was measured of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from engine.core.option import Option


class State(StrEnum):
    """Where a trial stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric of one trial. `per_image` is float32 [M] where the value is a mean over images, else None."""

    name: str
    value: float
    n: int
    unit: str
    higher_is_better: bool
    per_image: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything measured of one recipe, and what it cost."""

    metrics: tuple[Measured, ...]
    duration_s: float
    generating_s: float

    def flaw(self) -> str:
        """Why it cannot be kept, or ""."""
        bad = [m for m in self.metrics if not math.isfinite(m.value)]
        return f"{bad[0].name} is {bad[0].value}: the images hold NaN or Inf." if bad else ""


@dataclass(frozen=True, slots=True)
class Trial:
    """One recipe of a study. `options` holds every choice of the model (untouched layers as fp16)."""

    id: int
    key: str
    preset: str
    seed: int
    number: int
    granularity: str
    options: Mapping[str, Option]
    bits: float
    bytes: int
    environment: int
    state: State
    attempts: int
    error: str
    duration_s: float
    generating_s: float
