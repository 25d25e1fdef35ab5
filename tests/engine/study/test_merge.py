"""Shards and merging."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from dump import content
from fake_bench import BENCH

from engine.core.errors import StudyError
from engine.study.job import Job
from engine.study.merge import merge
from engine.study.runner import Plan, run_study
from engine.study.storage import read_study


def study(path: Path, trials: int = 7, source: str = "", **changes: Any) -> Path:
    try:
        list(run_study(path, Plan(Job(source, bench=BENCH), trials, **changes)))
    except StudyError:
        assert source == "nan"
    return path


def test_merged_shards_equal_one_study(tmp_path: Path) -> None:
    shards = [study(tmp_path / f"{i}.sqlite", shard=(i, 3)) for i in range(3)]
    result = merge(tmp_path / "all.sqlite", shards)
    assert (result.added, result.known, result.trials) == (7, 0, 7)
    whole = study(tmp_path / "whole.sqlite")
    assert content(tmp_path / "all.sqlite", ordered=False) == content(whole, ordered=False)
    again = merge(tmp_path / "all.sqlite", shards)
    assert (again.added, again.known) == (0, 7)
    assert content(tmp_path / "all.sqlite", ordered=False) == content(whole, ordered=False)


def test_a_merged_study_can_be_continued(tmp_path: Path) -> None:
    merge(tmp_path / "all.sqlite", [study(tmp_path / "0.sqlite", shard=(0, 2))])
    study(tmp_path / "all.sqlite")
    assert content(tmp_path / "all.sqlite", ordered=False) == content(study(tmp_path / "whole.sqlite"), ordered=False)


def test_a_done_trial_replaces_a_failed_one(tmp_path: Path) -> None:
    failed, done = study(tmp_path / "f.sqlite", 3, "nan"), study(tmp_path / "d.sqlite", 3)
    assert merge(tmp_path / "a.sqlite", [failed, done]).trials == 3
    assert merge(tmp_path / "b.sqlite", [done, failed]).trials == 3
    for name in ("a", "b"):
        with read_study(tmp_path / f"{name}.sqlite") as merged:
            assert len(merged.trials()) == 3


def test_mixed_environments_are_refused_unless_asked_for(tmp_path: Path) -> None:
    a = study(tmp_path / "a.sqlite", shard=(0, 2))
    b = study(tmp_path / "b.sqlite", source="elsewhere", shard=(1, 2))
    with pytest.raises(StudyError, match=r"machine n and m.*--mixed"):
        merge(tmp_path / "all.sqlite", [a, b])
    assert not (tmp_path / "all.sqlite").exists()
    assert merge(tmp_path / "all.sqlite", [a, b], mixed=True).trials == 7
    with read_study(tmp_path / "all.sqlite") as merged:
        assert len(merged.environments()) == 2


def test_other_models_are_refused(tmp_path: Path) -> None:
    a, b = study(tmp_path / "a.sqlite", 2), study(tmp_path / "b.sqlite", 2, "other")
    with pytest.raises(StudyError, match="another model"):
        merge(tmp_path / "all.sqlite", [a, b], mixed=True)
    with pytest.raises(StudyError, match="another model"):
        merge(a, [b])


def test_senseless_merges(tmp_path: Path) -> None:
    a = study(tmp_path / "a.sqlite", 2)
    for target, sources in ((a, []), (a, [a]), (tmp_path / "b.sqlite", [tmp_path / "no.sqlite"])):
        with pytest.raises(StudyError):
            merge(target, sources)


def test_a_done_trial_replaces_a_failed_or_waiting_one_of_another_environment(tmp_path: Path) -> None:
    done = study(tmp_path / "d.sqlite", 3, "elsewhere")
    failed = study(tmp_path / "f.sqlite", 3, "nan")
    waiting = study(tmp_path / "w.sqlite", 3)
    with sqlite3.connect(waiting) as connection:
        connection.execute("DELETE FROM metric")
        connection.execute("UPDATE trial SET state = 'waiting'")
    for unfinished in (failed, waiting):
        for sources in ((unfinished, done), (done, unfinished), (unfinished, waiting, done, unfinished)):
            target = tmp_path / "all.sqlite"
            target.unlink(missing_ok=True)
            assert merge(target, sources, mixed=True).trials == 3
            with read_study(target) as merged:
                assert len(merged.trials()) == 3 and {t.environment for t in merged.trials()} <= {1, 2}


def test_a_damaged_source_is_not_taken(tmp_path: Path) -> None:
    whole, spoilt = study(tmp_path / "a.sqlite", 2, shard=(0, 2)), study(tmp_path / "b.sqlite", 2, shard=(1, 2))
    with sqlite3.connect(spoilt) as connection:
        connection.execute("UPDATE metric SET per_image = x'00'")
    with pytest.raises(StudyError, match=r"b\.sqlite is damaged"):
        merge(whole, [spoilt])
    with read_study(whole) as merged:
        assert len(merged.trials(None)) == 1
