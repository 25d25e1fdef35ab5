"""A shared link shows the same pictures: every setting is in the address, and what is no setting is ignored."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.backend import Facts
from explorer.context import Context
from explorer.handlers import Handlers
from explorer.panels.prompt import schedulers
from explorer.server import Binding
from explorer.state import Settings
from explorer.url import pack_settings, with_settings

OTHER = Settings(prompt="a boat\na tree", negative="blurry & grey=1", label=7, seed=2**32 - 1, steps=9, guidance=7.5,
                 scheduler="EulerDiscreteScheduler", count=3)


def in_address(packed: dict[str, Any]) -> dict[str, str]:
    """What the page's script makes of query parameters, as the server reads them."""
    return {key: str(value) for key, value in json.loads(json.dumps(packed, allow_nan=False)).items()
            if value is not None}


@pytest.fixture(scope="module")
def handlers() -> Handlers:
    return Handlers(Context(Binding("127.0.0.1", 7860, (), "", False)), "emoji-unet")


def test_every_setting_of_a_view_is_in_its_link(handlers: Handlers) -> None:
    assert all(getattr(OTHER, f.name) != f.default for f in fields(Settings)), "a new setting must be tested too"
    state, _ = handlers.opened("emoji-unet", {})
    link = in_address(json.loads(handlers.address(replace(state, settings=OTHER))))
    again, said = handlers.opened(link.pop("model"), link)
    assert again.settings == OTHER and not said


def test_defaults_are_taken_out_of_the_address(handlers: Handlers) -> None:
    state, _ = handlers.opened("emoji-unet", {})
    packed = json.loads(handlers.address(state))
    assert [packed[key] for key in ("negative", "label", "scheduler", "count")] == [None] * 4
    assert packed["prompt"] and packed["steps"] == state.settings.steps


@given(st.builds(Settings, prompt=st.text(), negative=st.text(), label=st.integers(0, 999), seed=st.integers(0, 2**32),
                 steps=st.integers(1, 100), guidance=st.floats(0, 50), scheduler=st.text(max_size=100),
                 count=st.integers(1, 8)))
def test_settings_round_trip(settings: Settings) -> None:
    assert with_settings(Settings(prompt="first", steps=5, guidance=1), in_address(pack_settings(settings))) == settings


@pytest.mark.parametrize("query", [
    {"count": "0"}, {"count": "9"}, {"count": "1000000000"}, {"count": "two"}, {"count": ""}, {"label": "1.5"},
    {"label": "9" * 400}, {"seed": "x"}, {"guidance": "nan"}, {"guidance": "inf"}, {"guidance": "1e400"},
    {"negative": "x" * 5001}, {"scheduler": "x" * 101}, {"prompt": "x" * 40_001}, {"nonsense": "1"},
])
def test_what_is_no_setting_is_ignored(query: dict[str, str]) -> None:
    assert with_settings(Settings(prompt="mine"), query) == Settings(prompt="mine")


def test_what_is_too_long_is_not_written() -> None:
    assert pack_settings(Settings(prompt="x" * 40_001, negative="x" * 5001)).items() >= {
        "prompt": None, "negative": None, "seed": 0}.items()


def test_a_scheduler_the_model_lacks_stays_a_choice_until_it_is_refused() -> None:
    assert [n for _, n in schedulers(("A", "B"), "B")["choices"]] == ["", "A", "B"]
    assert [n for _, n in schedulers(Facts().schedulers, "Gone")["choices"]] == ["", "Gone"]
    assert schedulers((), "Gone")["value"] == "Gone"
