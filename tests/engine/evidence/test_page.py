"""What the page says of figures that were made up: which are judged, and what stands beside them."""

from __future__ import annotations

from typing import Any

from engine.evidence.page import _agreement


def row(name: str, value: float) -> dict[str, Any]:
    behind = None if name == "attribution-shapley" else (0.7 - value, 0.55 - value, 0.85 - value)
    return {"name": name, "spearman": value, "low": value - 0.1, "high": value + 0.1, "n": 20, "behind": behind}


def test_agreement_is_judged_on_measured_and_has_its_ceiling_elsewhere() -> None:
    rows = [row("attribution-shapley", 0.7), row("size-only", 0.2)]
    found = {"agreement": [
        {"measured": "measured", "option": "uaq-3", "level": "layers", "rows": [*rows, row("measured-uaq4", 0.75)]},
        {"measured": "measured-uaq4", "option": "uaq-3", "level": "layers", "rows": [*rows, row("measured", 0.75)]},
        {"measured": "measured-uaq4", "option": "uaq-2", "level": "blocks", "rows": rows},
    ]}
    text = _agreement(found)
    assert text.count("Goal default attribution") == 1
    assert "Goal default attribution over layers at least 0.6: 0.700, met" in text
    assert "agreement of `measured-uaq4` with `measured`: 0.750 (0.650 to 0.850)" in text
    assert "too few options in common" in text
    assert text.count("Significantly above size-only, weight-error, random: yes.") == 3
    close = _agreement({"agreement": [{**found["agreement"][0], "rows": [*rows, row("weight-error", 0.6)]}]})
    assert "**not** above weight-error." in close  # 0.7 is more than 0.6, but not significantly
