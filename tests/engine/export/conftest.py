"""Tiny pipelines saved and opened from their directories, once per test run; tests leave them in full precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.core.recipe import Recipe
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
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Model]]:
    """Opens a tiny pipeline from a directory by name and bits of precision; the same gives the same model."""
    import torch

    from engine.live.model import open_model
    from engine.models.quiet import quiet
    from engine.models.tiny import TINY

    models: dict[tuple[str, int], Model] = {}

    def model(name: str, bits: int = 32) -> Model:
        if (name, bits) not in models:
            home: Path = tmp_path_factory.mktemp("pipelines") / name
            with quiet():
                pipeline = TINY[name]()
                (pipeline.to(torch.float16) if bits == 16 else pipeline).save_pretrained(home)
            models[name, bits] = open_model(str(home), store=tmp_path_factory.mktemp("stores") / "store")
        return models[name, bits]

    yield model
    for one in models.values():
        one.close()


@pytest.fixture(scope="session")
def unet(opened: Callable[..., Model]) -> Model:
    """A U-Net in float32, with split shortcuts and every kind of layer."""
    return opened("sd1")


@pytest.fixture(scope="session")
def transformer(opened: Callable[..., Model]) -> Model:
    """A long-skip transformer whose checkpoint is float16, with split Linear layers."""
    return opened("hunyuan", 16)


@pytest.fixture(scope="session")
def mixed() -> Callable[[Model], Recipe]:
    """A recipe that gives the layers every option they can take, in turn."""
    from engine.core.option import options_for
    from engine.core.recipe import model_ref

    def recipe(model: Model) -> Recipe:
        options = {}
        for number, layer in enumerate(model.structure.choices):
            offered = options_for(layer.kind)
            options[layer.name] = offered[number % len(offered)]
        return Recipe(model_ref(model.structure), options, provenance={"allocator": "in turn"})

    return recipe
