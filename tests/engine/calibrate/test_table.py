"""The comparison of ingredients at the smallest size: every row, resumed, and its differences image by image."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.bench import lengths as lengths_module
from engine.bench.dmq import ABOVE, TablePlan, TableRow, lines, stage_lines, table
from engine.bench.lengths import LengthsPlan, lengths
from engine.calibrate import capture as capture_module
from engine.calibrate import roundings, scalings
from engine.calibrate.files import Cost
from engine.core.errors import InputError, StudyError
from engine.core.recipe import load_recipe
from engine.live.model import Model
from engine.models.tiny import TINY

PLAN = TablePlan(("W4A8", "W4A6"), images=3, iterations=4, rounding_iterations=4, capture=4, rows=12, groups=3, steps=3)


@pytest.mark.slow
def test_every_row_and_none_twice(plain: Model, tmp_path: Path) -> None:
    places = {"partial": tmp_path / "rows.jsonl", "directory": tmp_path / "work", "recipes": tmp_path / "recipes"}
    first = table(plain, PLAN, **places)
    some = [next(e for e in first if isinstance(e, TableRow)) for _ in range(3)]
    first.close()  # interrupted
    assert plain.recipe.options == {} and plain.inputs.settings == {}
    rows = [e for e in table(plain, PLAN, **places) if isinstance(e, TableRow)]
    assert rows[:3] == some
    assert [(r.preset, r.row) for r in rows] == [(p, n) for p in PLAN.presets for n in PLAN.ingredients()]
    found = {(r.preset, r.row): r for r in rows}
    for preset in PLAN.presets:
        assert found[preset, "baseline"].calibration["weights"] == ""
        both = [found[preset, name].calibration["weights"] for name in ("+ PTS by error", "+ PTS by voting")]
        assert both[0] == both[1] == found[preset, "+ adaptive weighting"].calibration["weights"] != ""
    assert found["W4A8", "+ AdaRound"].calibration["weights"] == found["W4A6", "+ AdaRound"].calibration["weights"]
    assert all({"psnr", "image_mse"} <= r.images.keys() and len(r.images["psnr"]) == 3 for r in rows)
    assert found["W4A6", "baseline"].bit_operations < found["W4A8", "baseline"].bit_operations
    assert load_recipe(tmp_path / "recipes" / "w4a6-pts-by-voting.recipe.json").hash == found[
        "W4A6", "+ PTS by voting"].calibration["recipe"]
    shown = lines(rows)
    assert len(shown) == 12 and all(bool(line["psnr against the row it adds to"]) == (line["row"] in ABOVE)
                                    for line in shown)
    with pytest.raises(StudyError, match="other settings"):
        list(table(plain, TablePlan(images=4, capture=4), **places))


def row(preset: str, name: str, psnr: list[float], stages: dict[str, Cost]) -> TableRow:
    images = {"psnr": tuple(psnr), "feature_distance[x]": tuple(1 / p for p in psnr)}
    return TableRow(preset, name, {"psnr": (sum(psnr) / len(psnr), 0.0, 0.0)}, images, 4.5, 10**9, {}, stages)


def test_rows_are_compared_image_by_image_and_across_widths() -> None:
    rows = [row("W4A8", "baseline", [20.0, 30.0, 25.0], {}), row("W4A8", "+ AdaRound", [21.0, 31.0, 26.0], {}),
            row("W4A6", "baseline", [18.0, 28.0, 23.0], {"activations": (1.0, 500.0)}),
            row("W4A6", "+ AdaRound", [20.5, 30.5, 25.5], {"rounding": (61.4, 812.3), "activations": (2.0, 900.0),
                                                               "trajectories": (None, None)})]
    shown = lines(rows)
    above, wider = "psnr against the row it adds to", "psnr against W4A8 baseline"
    assert [line[above] for line in shown] == ["", "+1 [+1, +1]", "", "+2.5 [+2.5, +2.5]"]
    assert [line[wider] for line in shown] == ["", "", "-2 [-2, -2]", "+0.5 [+0.5, +0.5]"]
    assert shown[3]["feature_distance against W4A8 baseline"].startswith("-0.0008")
    assert stage_lines(rows) == [{"preset": "W4A6", "row": "+ AdaRound", "stage": "rounding", "seconds": 61,
                                  "peak MB": 812}, {"preset": "W4A6", "row": "+ AdaRound", "stage": "trajectories",
                                                    "seconds": "unknown", "peak MB": "unknown"}]


def test_lengths_are_compared_on_the_same_inputs(plain: Model) -> None:
    plan = LengthsPlan((3, 6), (4, 8), capture=4, rows=12, steps=3)
    found = [e for e in lengths(plain, plan) if isinstance(e, dict)]
    assert len(found) == 8
    scalings = [f for f in found if f["what"].startswith("scaling")]
    assert [f["what"] for f in scalings[:3]] == [f["what"] for f in scalings[3:]]
    assert [f["without"] for f in scalings[:3]] == [f["without"] for f in scalings[3:]]
    assert found[-1]["what"] == found[-2]["what"] and found[-1]["without"] == found[-2]["without"]


def test_an_interrupted_comparison_of_lengths_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TINY["ddpm"]().save_pretrained(tmp_path / "tiny")
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path / "cache"))
    small = partial(LengthsPlan, (3, 6), (4, 8), rows=12, steps=3)
    monkeypatch.setattr(lengths_module, "LengthsPlan", small)
    learned: list[str] = []

    def noting(module: Any, name: str) -> None:
        whole = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: learned.append(name) or whole(*a, **k))

    noting(scalings, "scaling_of")
    noting(roundings, "rounding_of")
    noting(capture_module, "generate")
    stop, names = [5, 7], ["scaling_of", "rounding_of", "generate"]

    def interrupted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        found = 0
        for event in lengths(*args, **kwargs):
            found += isinstance(event, dict)
            yield event
            if stop and found == stop[0]:
                raise KeyboardInterrupt

    monkeypatch.setattr(lengths_module, "lengths", interrupted)
    taken = []
    for _ in range(3):
        learned.clear()
        try:
            found = lengths_module.run(str(tmp_path / "tiny"), 4)
        except KeyboardInterrupt:
            stop.pop(0)
        taken.append([learned.count(name) for name in names])
    assert taken[0] == [5, 0, 1]  # three at the short length and two at the published one
    assert taken[1][0] >= 1 and taken[1][1:] == [1, 0]  # the third, the block's own scalings, and the short rounding
    assert taken[2] == [0, 1, 0]
    learned.clear()
    assert lengths_module.run(str(tmp_path / "tiny"), 4) == found and not learned  # with the seconds it took then
    assert sorted(p.name.rpartition("-")[0] for p in (tmp_path / "cache" / "calibration").glob("*/*")) == [
        "lone-roundings", "lone-roundings", "scalings", "trajectories"]
    assert len(found["rows"]) == 4 and all(
        {"error without", "error short", "error published", "seconds short", "seconds published"} <= line.keys()
        for line in found["rows"])
    assert found["rows"][-1]["iterations published"] == "8 of 8"


def test_one_picture_is_no_comparison() -> None:
    with pytest.raises(InputError, match="two pictures"):
        TablePlan(images=1)
