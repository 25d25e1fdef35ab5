"""Tiny pipelines opened as models, built once per test run; tests leave them in full precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from engine.live.model import Model


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Tiny nets gain nothing from threads, and on a busy machine lose much waiting for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Model]]:
    """Opens a tiny pipeline by its name; the same name gives the same model."""
    from engine.live.model import open_model
    from engine.models.tiny import TINY

    opened: dict[str, Model] = {}

    def model(name: str) -> Model:
        if name not in opened:
            opened[name] = open_model(TINY[name](), store=tmp_path_factory.mktemp("stores") / name)
        return opened[name]

    yield model
    for one in opened.values():
        one.close()


@pytest.fixture()
def unet(tiny_model: Callable[[str], Model]) -> Iterator[Model]:
    """A tiny U-Net pipeline with long skips, in full precision before and after."""
    from engine.live.apply import restore

    model = tiny_model("sd1")
    restore(model)
    yield model
    restore(model)


@pytest.fixture(scope="session")
def plain(tiny_model: Callable[[str], Model]) -> Model:
    """An unconditional U-Net on pixels, the fastest there is."""
    return tiny_model("ddpm")


@pytest.fixture(scope="session")
def guided(tiny_model: Callable[[str], Model]) -> Model:
    """A text-conditioned U-Net with skip convolutions, called with doubled guidance batches."""
    return tiny_model("sd1")
