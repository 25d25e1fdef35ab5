"""Everything that is proved, end to end on a tiny pipeline: stopped and resumed, and the page it ends in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.analysis.predictor import Kind
from engine.analysis.training import Training
from engine.evidence.page import page
from engine.evidence.scale import Places, Scale
from engine.evidence.stages import prove
from engine.providers.progress import Progress

pytestmark = pytest.mark.slow
SMALL = Scale(images=2, judged=1, switched=1, steps=1, sizes=(16,), kinds=(Kind.DAMAGE, Kind.ANCHORED, Kind.GNN),
              training=Training(epochs=1, hidden=8, batch=16), timed=0, cumulative=None)


def run(tiny: Path, places: Places, stop_at: int | None = None) -> tuple[list[Progress], Any]:
    """Progress and evidence; stopped after so many records of progress."""
    seen: list[Progress] = []
    for step in prove(tiny / "study.sqlite", places, SMALL, source=str(tiny / "model")):
        if isinstance(step, dict):
            return seen, step
        seen.append(step)
        if len(seen) == stop_at:
            return seen, None
    raise AssertionError("it ends with the evidence")


def same(found: dict[str, Any]) -> Any:
    """Evidence without what the clock says."""
    timed = ("study", "cost", "fit_seconds")
    return json.loads(json.dumps({k: v for k, v in found.items() if k not in timed}, default=str))


def test_it_ends_in_a_page_and_goes_on_where_it_was_stopped(tiny: Path, tmp_path: Path) -> None:
    whole, found = run(tiny, Places(tmp_path / "a", tmp_path / "a" / "kept"))
    text = page([found])
    for heading in ("Labels", "Predictor", "Learning curve", "Agreement", "Deletion", "Final comparisons", "Cost"):
        assert f"### {heading}" in text
    assert "| **ours** (" in text and "`measured alone` adds up" in text and "Never significantly worse" in text
    assert {c["score"] for c in found["switching"]} == {"attribution-shapley", "measured", "weight-error", "size-only",
                                                        "random"}
    contest = found["contest"]
    assert {b["group"] for b in contest["budgets"]} == {"equal", "bits"}  # so small a model has no recipe below 3.1
    for budget in contest["budgets"]:
        names = {r["contender"] for r in budget["rows"]}
        assert {"ours", "uniform", "best of random", "size-only", "weight-error", "measured-greedy"} <= names
        assert all(r["bytes"] <= budget["bytes"] for r in budget["rows"])
        ours, *others = budget["rows"]
        assert all(d == [0, 0, 0] for d in ours["differences"].values())
        assert all({"psnr", "ssim", "image_mse", "latent_sqnr"} <= set(r["differences"]) for r in others)
        assert all(r["note"].endswith("from options of 3 and 4 bits") for r in others if "random" in r["contender"])
    assert {r["name"] for g in found["agreement"] for r in g["rows"]} >= {"attribution-shapley", "random", "size-only"}
    # What starts from the measurements is not compared with them.
    if found["kind"] == Kind.ANCHORED:
        assert "predictor" not in {r["name"] for g in found["agreement"] for r in g["rows"]}
    places = Places(tmp_path / "b", tmp_path / "b" / "kept")
    for stop in (3, len(whole) // 2, len(whole) * 3 // 4):
        run(tiny, places, stop)
    rest, again = run(tiny, places)
    assert same(again) == same(found)
    measured = [s for s in rest if s.doing == "final comparisons"]
    assert len(measured) < len([s for s in whole if s.doing == "final comparisons"])
    # Finished, nothing is measured again.
    last, _ = run(tiny, places)
    measuring = ("final comparisons", "candidates and random draws", "the shortlisted again",
                 "deletion and insertion curves")
    assert not [s for s in last if s.doing in measuring]
