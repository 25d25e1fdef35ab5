"""Short trajectories of tiny models."""

from __future__ import annotations

from engine.calibrate.capture import Captured, CapturePlan, capture
from engine.live.model import Model


def captured_of(model: Model, images: int = 4, steps: int = 3) -> Captured:
    """Trajectories in memory."""
    *_, last = capture(model, CapturePlan(images=images, steps=steps))
    assert isinstance(last, Captured)
    return last
