"""Scores files: round trip, every kind of damage refused, found by identity."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.core.errors import StudyError
from engine.core.record import Scores, Trust
from engine.providers.files import check_scores, find_scores, load_scores, save_scores, scores_path, summary
from tests.engine.core.records import structure

SHAPE = replace(structure(2), identity="abcdef01" + "0" * 56, model="some/where/my model")
SCORES = Scores("measured", SHAPE.identity, "image MSE", {"blocks.0.linear": {"uaq-4": 0.25, "fp16": 0.0}},
                {"blocks.0": {"uaq-4": 0.5}}, Trust(images=16), "a command", {"steps": "20"})


def test_round_trip(tmp_path: Path) -> None:
    save_scores(tmp_path / "s.json", SCORES)
    assert load_scores(tmp_path / "s.json") == SCORES
    assert summary({"measured": SCORES})[0]["trust"]["images"] == 16


@pytest.mark.parametrize(("change", "words"), [
    ({"version": 2}, "version 2"),
    ({"layers": {"a": {"uaq-7": 1.0}}}, "Unknown option 'uaq-7'"),
    ({"layers": {"a": {"uaq-4": "1"}}}, "expected float"),
    ({"surprise": 1}, "unknown key 'surprise'"),
    ({"layers": []}, "expected dict"),
    ({"about": {"by_feature": "output"}}, "no table of numbers"),
    ({"about": {"by_feature": '{"uaq-3": {"a": {"bits": "<b>"}}}'}}, "no table of numbers"),
])
def test_damaged_files_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "s.json"
    save_scores(path, SCORES)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(StudyError, match=words):
        load_scores(path)


def test_what_is_no_scores_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    for text in ("", "[]", '{"options": {}}', '{"layers": {"a": {"uaq-4": NaN}}}'):
        path.write_text(text)
        with pytest.raises(StudyError):
            load_scores(path)
    with pytest.raises(StudyError, match="Cannot read"):
        load_scores(tmp_path / "absent.json")


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="is nan"):
        save_scores(tmp_path / "s.json", replace(SCORES, layers={"a": {"uaq-4": float("nan")}}))
    assert not (tmp_path / "s.json").exists()


def test_scores_are_found_by_identity_and_the_users_own_come_first(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path / "cache"))
    shipped = tmp_path / "assets" / "scores"
    monkeypatch.setattr("engine.providers.files.assets_dir", lambda: tmp_path / "assets")
    assert find_scores(SHAPE) == {}
    shape_file = scores_path(SHAPE, "measured", shipped)
    assert shape_file.name == "my-model-abcdef01.measured.json"
    save_scores(shape_file, SCORES)
    save_scores(scores_path(SHAPE, "weight-error", shipped), replace(SCORES, provider="weight-error"))
    (shipped / "broken-abcdef01.json").write_text("{")
    save_scores(shipped / "a-twin-abcdef01.measured.json", replace(SCORES, model="abcdef01" + "1" * 56))
    assert set(find_scores(SHAPE)) == {"measured", "weight-error"} and find_scores(SHAPE)["measured"] == SCORES
    own = replace(SCORES, command="mine")
    save_scores(scores_path(SHAPE, "measured"), own)
    assert find_scores(SHAPE)["measured"] == own


def test_scores_of_another_model_are_refused() -> None:
    with pytest.raises(StudyError, match="another model"):
        check_scores(SCORES, structure(2))
    with pytest.raises(StudyError, match="does not have"):
        check_scores(replace(SCORES, layers={"nowhere": {}}), SHAPE)


def test_a_file_of_something_else_beside_the_scores_is_passed_over(tmp_path: Path) -> None:
    save_scores(scores_path(SHAPE, "measured", tmp_path), SCORES)
    scores_path(SHAPE, "other", tmp_path).write_text('{"macs": {}}')
    assert find_scores(SHAPE, [tmp_path]) == {"measured": SCORES}
