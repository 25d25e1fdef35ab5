"""The tiny pipelines are what the other tests stand on: seeded, small, without touching anyone's random state."""

from __future__ import annotations

import pytest
import torch

from engine.models.loading import denoiser_of
from engine.models.tiny import TINY


@pytest.mark.parametrize("name", sorted(TINY))
def test_the_same_weights_every_time(name: str, tiny) -> None:
    state = torch.random.get_rng_state()
    again = TINY[name]()
    assert torch.equal(torch.random.get_rng_state(), state)
    for key, component in again.components.items():
        if isinstance(component, torch.nn.Module):
            first = getattr(tiny(name), key).state_dict()
            assert all(torch.equal(tensor, first[n]) for n, tensor in component.state_dict().items())
            assert not component.training


@pytest.mark.parametrize("name", sorted(TINY))
def test_small(name: str, tiny) -> None:
    _, denoiser = denoiser_of(tiny(name))
    assert sum(p.numel() for p in denoiser.parameters()) < 1_000_000
