"""Overlays: scales, ramps that stay ordered for every eye, ticks and words."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.record import Trust
from explorer.graphview.overlay import (
    BIT_COLOURS,
    RAMPS,
    bits_overlay,
    colour,
    make_overlay,
    normalise,
    number,
    scale_of,
    ticks,
    trust_text,
)


def _luminance(text: str) -> float:
    parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("ramp", RAMPS)
def test_lightness_falls_along_every_ramp(ramp: str) -> None:
    shades = [_luminance(colour(i / 40, ramp)) for i in range(41)]
    assert all(a > b for a, b in itertools.pairwise(shades))
    assert shades[0] / shades[-1] > 8


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0.001, 10))
def test_normalise_is_monotone_and_bounded(a: float, b: float, span: float) -> None:
    x, y = normalise(min(a, b), 0, span), normalise(max(a, b), 0, span)
    assert 0 <= x <= y <= 1


def test_normalise_at_its_ends_and_in_the_log_scale() -> None:
    assert normalise(0.1, 0.1, 10) == 0 and normalise(10, 0.1, 10) == 1
    assert normalise(1, 0.1, 10, log=True) == pytest.approx(0.5)
    assert normalise(0, 0.1, 10, log=True) == 0
    assert normalise(5, 5, 5) == 0


def test_scales_leave_out_what_is_not_finite() -> None:
    assert scale_of([1.0, 3.0, math.nan, math.inf]) == (0.0, 3.0)
    assert scale_of([0.0, 0.5, 0.01], log=True) == (0.01, 0.5)
    assert scale_of([]) == (0.0, 1.0) and scale_of([], log=True)[0] > 0


def test_ticks_and_numbers_are_short() -> None:
    assert [t["label"] for t in ticks(1e-5, 0.1, log=True)] == ["1e-5", "0.001", "0.1"]
    assert [t["label"] for t in ticks(0, 8)] == ["0", "4", "8"]
    assert [number(v) for v in (0, 0.00012, 12345.6, 3.14159, math.inf)] == ["0", "1.2e-4", "12346", "3.14", "–"]


def test_overlays_say_what_they_are_and_how_far_to_trust_them() -> None:
    trust = Trust(study="emoji", trials=220, images=16, rank_correlation=0.93, note="over all sizes")
    values = {"a": 1.0, "b": 4.0, "c": math.nan}
    made = make_overlay("measured", "Measured", values, unit="MSE", hatched=["b", "x"], trust=trust)
    assert made["values"] == {"a": 1.0, "b": 4.0} and made["scale"] == [0.0, 4.0] and made["hatched"] == ["b"]
    assert made["trust"] == ("study emoji · 220 trials · 16 images · held-out rank correlation 0.93 (over all sizes) · "
                             "hatched: 1 scaled or extrapolated")
    assert trust_text(Trust()) == ""
    assert make_overlay("x", "X", {}, ramp="unheard-of")["ramp"] == "ember"
    assert bits_overlay("viridis")["ramp"] == "viridis"


def test_every_width_has_a_colour_of_its_own() -> None:
    assert sorted(BIT_COLOURS) == [2, 3, 4, 5, 6, 8, 16] and len(set(BIT_COLOURS.values())) == 7
