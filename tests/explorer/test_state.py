"""View state: transitions are pure, history behaves as people expect, the address carries the recipe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import OptionError, RecipeError
from engine.core.option import ALL_OPTIONS, FP16, parse_option
from explorer.state import Settings, edited, fresh, jumped, options_from_browser, pinned, travelled
from explorer.url import pack_options, unpack_options

A, B, C = ({"x": parse_option(f"uaq-{b}"), "y": FP16} for b in (4, 3, 2))
START = fresh("m", A, "weight-error", Settings())


def test_undo_and_redo() -> None:
    state = edited(edited(START, B), C)
    assert state.options == C and state.can_undo and not state.can_redo
    back = travelled(state, -1)
    assert back.options == B and back.can_redo
    assert travelled(back, 1).options == C
    assert travelled(back, -10).options == A and travelled(back, 10).options == C
    assert jumped(state, 0).options == A


def test_editing_after_undo_drops_what_was_undone() -> None:
    state = edited(travelled(edited(START, B), -1), C)
    assert [v.options for v in state.history] == [A, C] and not state.can_redo


def test_no_change_makes_no_version_and_states_are_untouched() -> None:
    assert edited(START, dict(A)) is START
    pinned(edited(START, B), "A")
    assert len(START.history) == 1 and START.pins == {}


def test_titles_say_what_changed() -> None:
    assert edited(START, B).history[-1].title == "x: uaq-4 to uaq-3"
    both = {"x": parse_option("rtn_g64-5"), "y": parse_option("rtn_g64-5")}
    assert edited(START, both).history[-1].title == "2 layers to rtn_g64-5"


def test_history_is_bounded() -> None:
    state = START
    for i in range(500):
        state = edited(state, B if i % 2 == 0 else A)
    assert len(state.history) == 200 and state.at == 199


@given(st.lists(st.sampled_from(ALL_OPTIONS), min_size=1, max_size=900))
def test_addresses_round_trip(options: list) -> None:
    order = [f"layer.{i}" for i in range(len(options))]
    wanted = dict(zip(order, options, strict=True))
    assert unpack_options(pack_options(wanted, order), order) == wanted


def test_uniform_addresses_are_short() -> None:
    order = [str(i) for i in range(803)]
    assert len(pack_options(dict.fromkeys(order, parse_option("uaq-4")), order)) < 32


@pytest.mark.parametrize("packed", ["", "!!", "AAAA", "x" * 20_000, "eJx", "é"])
def test_damaged_addresses_are_refused(packed: str) -> None:
    with pytest.raises(RecipeError, match="damaged"):
        unpack_options(packed, ["a", "b"])


def test_addresses_of_other_models_and_bombs_are_refused() -> None:
    import base64
    import zlib

    packed = pack_options(A, ["x", "y"])
    with pytest.raises(RecipeError):
        unpack_options(packed, ["x", "y", "z"])
    bomb = base64.urlsafe_b64encode(zlib.compress(b"uaq-4;" + b"0x1," * 3_000_000, 9)).decode()[:15_990]
    with pytest.raises(RecipeError):
        unpack_options(bomb, ["x"])


def test_options_from_the_browser_are_checked() -> None:
    assert options_from_browser({"x": "uaq-4", "y": "fp16"}, "xy") == A
    for bad in ({"x": "uaq-4"}, {"x": "uaq-4", "y": "fp16", "z": "fp16"}, [], None, "x"):
        with pytest.raises(ValueError, match="another model"):
            options_from_browser(bad, "xy")
    with pytest.raises(OptionError):
        options_from_browser({"x": "uaq-9", "y": "fp16"}, "xy")
