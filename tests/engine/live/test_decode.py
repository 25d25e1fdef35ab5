"""Steps as pictures: the last step decodes to the finished picture, with, without and with packed latents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.core.errors import ModelError
from engine.live.decode import LEVELS, step_pictures
from engine.live.generate import pictures
from engine.live.model import open_model
from engine.live.request import Request
from engine.models.tiny import TINY


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "flux", "ddpm"])
def test_the_last_step_is_the_finished_picture(family: str) -> None:
    model = open_model(TINY[family]())
    made = pictures(model, Request(steps=2), record_latents=True)[0]
    shown = step_pictures(model, made)
    assert made.latents is not None and shown.shape == (len(made.latents), *made.pixels.shape)
    assert shown.dtype == np.uint8
    assert np.abs(shown[-1].astype(float) - made.pixels).mean() <= LEVELS
    other = replace(made, pixels=255 - made.pixels)
    with pytest.raises(ModelError, match="cannot be shown"):
        step_pictures(model, other)
    with pytest.raises(ModelError, match="without recording"):
        step_pictures(model, replace(made, latents=None))
