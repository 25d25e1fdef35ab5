"""A recipe of another model is refused once, and taken over when it is loaded again on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.core.errors import RecipeError
from engine.core.recipe import ModelRef, save_recipe, uniform
from explorer.context import Context
from explorer.handlers import Handlers
from explorer.server import Binding


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr("gradio.Warning", found.append)
    return found


@pytest.fixture
def handlers() -> Handlers:
    return Handlers(Context(Binding("127.0.0.1", 7860, (), "", False)), "emoji-dit")


@pytest.fixture
def stranger(handlers: Handlers, tmp_path: Path) -> Callable[[str], str]:
    """Files with a recipe of a twin of the demo model."""
    from dataclasses import replace

    structure = handlers.context.model("emoji-dit").structure
    recipe = replace(uniform(structure, "uaq-3"), model=ModelRef("a twin", structure.denoiser_class, "0" * 64))

    def written(name: str) -> str:
        save_recipe(tmp_path / name, recipe)
        return str(tmp_path / name)
    return written


def test_it_takes_loading_twice(handlers: Handlers, stranger: Callable[[str], str], said: list[str]) -> None:
    state: Any = handlers.opened("emoji-dit", {})[0]
    refused = handlers.file_loaded(state, stranger("a.recipe.json"), "s")
    assert refused.options == state.options and "made for another model (a twin" in said[0]
    assert "once more" in said[0] and "Use transfer" not in said[0]
    other = handlers.file_loaded(refused, stranger("b.recipe.json"), "s")  # another file is not what was meant
    assert other.options == state.options and len(said) == 2
    taken = handlers.file_loaded(other, stranger("b.recipe.json"), "s")
    assert {str(o) for o in taken.options.values()} == {"uaq-3"} and not taken.refused and len(said) == 2


def test_layers_that_are_not_there_are_never_taken(handlers: Handlers, tmp_path: Path, said: list[str]) -> None:
    structure = handlers.context.model("emoji-unet").structure
    save_recipe(tmp_path / "u.json", uniform(structure, "uaq-3"))
    state: Any = handlers.opened("emoji-dit", {})[0]
    for _ in range(2):
        with pytest.raises(RecipeError, match="does not have"):
            handlers.file_loaded(state, str(tmp_path / "u.json"), "s")
