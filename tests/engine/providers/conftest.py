"""A tiny unconditional pipeline, fast to generate from, with one layer made fragile on purpose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.live.model import Model

FRAGILE = "time_embedding.linear_2"


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Tiny nets gain nothing from threads, and on a busy machine lose much waiting for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A planted cause: huge weights on an input that is always zero, and a time embedding that matters.

    At full precision the outliers do nothing; quantized, the layer's range grows a hundredfold and few bits wipe out
    all its other weights. Without the outliers the layer ranks near the end.
    """
    import torch

    from engine.live.model import open_model
    from engine.models.tiny import TINY

    pipeline = TINY["ddpm"]()
    first, second = pipeline.unet.time_embedding.linear_1, pipeline.unet.time_embedding.linear_2
    with torch.no_grad():
        first.weight[0], first.bias[0] = 0, 0
        second.weight *= 5
        second.weight[:, 0] = 500
    model = open_model(pipeline, store=tmp_path_factory.mktemp("stores") / "fragile")
    yield model
    model.close()
