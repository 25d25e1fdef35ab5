"""Numbers by node id -> what colours the graph: scale, colour stops, legend ticks, unit and trust in words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from engine.core.option import BITS, UNTOUCHED_BITS
from engine.core.record import Trust

Stops = tuple[tuple[float, str], ...]

# Lightness falls steadily along each ramp, so that order survives greyscale and every kind of colour vision;
# cividis and viridis are matplotlib's tables, sampled.
_PLACES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
RAMPS: dict[str, Stops] = {
    name: tuple(zip(_PLACES, colours, strict=True))
    for name, colours in {
        "ember": ("#fdf0d5", "#fbd8a0", "#f6b267", "#e8804a", "#c64a3a", "#7f1d34"),
        "cividis": ("#fee838", "#cbba69", "#9b9176", "#6d6c72", "#3a4a6b", "#00224e"),
        "viridis": ("#fde725", "#7ad151", "#22a884", "#2a788e", "#414487", "#440154"),
    }.items()
}
RAMP_TITLES = {"ember": "Ember", "cividis": "Cividis", "viridis": "Viridis"}
# Few bits warm, many bits cool (a diverging table that is safe for colour-blind readers); untouched is grey.
BIT_COLOURS = {2: "#b2182b", 3: "#e5785a", 4: "#f9c9a9", 5: "#cfe3ef", 6: "#86bbd8", 8: "#3b7cb8", 16: "#a3aab5"}
BITS_OVERLAY = "bits"
TICKS = 3


def normalise(value: float, low: float, high: float, *, log: bool = False) -> float:
    """Place of a value on the scale, 0..1; values outside are held at the ends."""
    if log:
        floor = max(low, high * 1e-9, 1e-300)
        value, low, high = math.log(max(value, floor)), math.log(floor), math.log(max(high, floor))
    return 0.0 if high <= low else min(1.0, max(0.0, (value - low) / (high - low)))


def colour(level: float, ramp: str) -> str:
    """The colour at a place 0..1 of a ramp, as #rrggbb (interpolated in sRGB, as the browser does)."""
    stops = RAMPS[ramp]
    level = min(1.0, max(0.0, level))
    for (a, low), (b, high) in itertools.pairwise(stops):
        if level <= b:
            part = (level - a) / (b - a)
            pairs = zip(_channels(low), _channels(high), strict=True)
            return "#" + "".join(f"{math.floor(p + (q - p) * part + 0.5):02x}" for p, q in pairs)
    return stops[-1][1]


def _channels(text: str) -> tuple[int, int, int]:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def scale_of(values: Iterable[float], *, log: bool = False) -> tuple[float, float]:
    """The ends of the scale: 0 (or the smallest positive value) to the largest finite value."""
    finite = [v for v in values if math.isfinite(v)]
    if log:
        positive = [v for v in finite if v > 0]
        return (min(positive), max(positive)) if positive else (1e-12, 1.0)
    return (min(0.0, min(finite, default=0.0)), max(finite, default=1.0) or 1.0)


def number(value: float) -> str:
    """Three significant digits; very small and very large ones with an exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def ticks(low: float, high: float, *, log: bool = False, count: int = TICKS) -> list[dict[str, Any]]:
    """Legend ticks: place on the ramp and text, evenly spread in place."""
    found = []
    for i in range(count):
        at = i / (count - 1)
        value = math.exp(math.log(low) + at * math.log(high / low)) if log and low > 0 else low + at * (high - low)
        found.append({"at": at, "label": number(value)})
    return found


def trust_text(trust: Trust, hatched: int = 0) -> str:
    """How far the colours can be believed, in one line."""
    parts = []
    if trust.study:
        parts.append(f"study {trust.study}")
    if trust.trials:
        parts.append(f"{trust.trials} trials")
    if trust.images:
        parts.append(f"{trust.images} images")
    if trust.rank_correlation is not None:
        parts.append(f"held-out rank correlation {trust.rank_correlation:.2f}{trust.note and f' ({trust.note})'}")
    elif trust.note:
        parts.append(trust.note)
    if hatched:
        parts.append(f"hatched: {hatched} scaled or extrapolated")
    return " · ".join(parts)


def make_overlay(
    name: str,
    title: str,
    values: Mapping[str, float],
    *,
    unit: str = "",
    log: bool = False,
    ramp: str = "ember",
    hatched: Iterable[str] = (),
    trust: Trust | str = "",
    low_text: str = "",
    high_text: str = "",
    scale: tuple[float, float] | None = None,
    text: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The overlay as the browser takes it (see `components.BlockGraph`); values that are not finite are left out."""
    finite = {k: float(v) for k, v in values.items() if math.isfinite(v)}
    low, high = scale or scale_of(finite.values(), log=log)
    marked = sorted({i for i in hatched if i in finite})
    return {
        "name": name, "title": title, "unit": unit, "values": finite, "text": dict(text or {}),
        "scale": [low, high], "log": log, "ramp": ramp if ramp in RAMPS else "ember",
        "ticks": ticks(low, high, log=log), "ends": [low_text, high_text], "hatched": marked,
        "trust": trust if isinstance(trust, str) else trust_text(trust, len(marked)),
    }  # fmt: skip


def bits_overlay(ramp: str = "ember") -> dict[str, Any]:
    """Colours follow the current bit-widths; the browser keeps them up to date while one drags."""
    return {
        "name": BITS_OVERLAY, "title": "Bits", "unit": "bits", "values": {}, "text": {},
        "scale": [BITS[0], UNTOUCHED_BITS], "log": False, "ramp": ramp if ramp in RAMPS else "ember",
        "ticks": [], "ends": ["", ""], "hatched": [], "trust": "the current recipe, nominal bits",
    }  # fmt: skip
