"""Measurements survive a kill: half-written lines are dropped, other settings refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.core.errors import StudyError
from engine.providers.partial import Partial

HEAD = {"version": 1, "steps": "20"}


def test_records_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "p.jsonl"
    first = Partial(path, HEAD)
    first.add({"a": 1})
    first.add({"a": 2})
    assert Partial(path, HEAD).records == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("tail", ['{"a": 3', '{"a": 3}', "garbage\n", "[1]\n"])
def test_a_torn_tail_is_dropped_and_writing_goes_on(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "p.jsonl"
    Partial(path, HEAD).add({"a": 1})
    with path.open("a") as file:
        file.write(tail)
    again = Partial(path, HEAD)
    assert again.records == [{"a": 1}]
    again.add({"a": 2})
    assert Partial(path, HEAD).records == [{"a": 1}, {"a": 2}]


def test_other_settings_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    Partial(path, HEAD).add({"a": 1})
    with pytest.raises(StudyError, match=r"other settings \(steps\)"):
        Partial(path, {**HEAD, "steps": "10"})
    assert Partial(path, HEAD).records == [{"a": 1}]


def test_without_a_path_records_stay_in_memory_and_bad_places_are_named(tmp_path: Path) -> None:
    memory = Partial(None, HEAD)
    memory.add({"a": 1})
    assert memory.records == [{"a": 1}]
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="Cannot write"):
        Partial(tmp_path / "file" / "p.jsonl", HEAD)


@pytest.mark.parametrize("text", ['{\n "version": 1,\n "options": {}\n}\n', "a shopping list\n", "x"])
def test_another_file_is_not_written_over(text: str, tmp_path: Path) -> None:
    path = tmp_path / "my.recipe.json"
    path.write_text(text)
    with pytest.raises(StudyError, match="is no file of measurements; name another file"):
        Partial(path, {"version": 1})
    assert path.read_text() == text


def test_damage_in_the_middle_loses_nothing_that_follows(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    text = '{"version": 1}\n{"a": 1}\ngarbage\n{"a": 2}\n'
    path.write_text(text)
    with pytest.raises(StudyError, match=r"Line 3 of p\.jsonl is damaged"):
        Partial(path, {"version": 1})
    assert path.read_text() == text
