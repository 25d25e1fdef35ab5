"""The comparison with scikit-learn reports ratios, and none of ours is worse."""

from __future__ import annotations

import pytest

from engine.bench.kmeans import run


def test_figures_of_a_small_comparison() -> None:
    figures = run(rounds=1, channels={300: 6})
    for bits in (3, 4):
        case = f"300 inputs, {bits} bits: "
        assert figures[case + "n"] == 6 and figures[case + "ratio"] > 0
        assert figures[case + "sse_ratio"] == pytest.approx(1, abs=1e-6)
        assert figures[case + "peer_sse_ratio"] >= 1 - 1e-9
        assert figures[case + "worst_channel"] <= 1 + 1e-9
    assert figures["n"] == 6 and "scikit-learn KMeans" in figures["peer"]
    assert figures["ratio"] == min(value for name, value in figures.items() if name.endswith("bits: ratio"))
    assert len(figures["load_before"]) in (0, 3)
