"""Running a study: records, resuming, failing, cancelling, workers; with a bench that needs no model."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from dump import content
from fake_bench import BENCH

from engine.core.errors import Cancelled, ModelError, StudyError
from engine.study.job import Job
from engine.study.runner import Plan, run_study, shard_numbers
from engine.study.storage import read_study
from engine.study.trial import State


def plan(trials: int = 6, source: str = "", **changes: Any) -> Plan:
    return Plan(Job(source, bench=BENCH), trials, **changes)


def test_records(tmp_path: Path) -> None:
    records = list(run_study(tmp_path / "s.sqlite", plan(3)))
    assert [r.event for r in records] == ["ready", *["started", "done"] * 3]
    assert [r.done for r in records] == [0, 0, 1, 1, 2, 2, 3] and {r.total for r in records} == {3}
    assert records[0].eta_s is None and records[-1].eta_s == 0 and records[2].eta_s is not None
    measurement = records[-1].measurement
    assert measurement is not None and measurement.metrics[0].name == "image_mse"


def test_resume_extend_and_other_presets_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    list(run_study(path, plan(3)))
    assert len(list(run_study(path, plan(3)))) == 1
    assert sum(r.event == "done" for r in run_study(path, plan(5))) == 2
    assert sum(r.event == "done" for r in run_study(path, plan(4, preset="wide"))) == 4
    assert sum(r.event == "done" for r in run_study(path, plan(2, seed=1))) == 2
    with read_study(path) as study:
        assert len(study.trials()) == 11 and len(study.trials(preset="wide")) == 4


def test_stopping_anywhere_changes_nothing_in_the_end(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.sqlite", tmp_path / "cut.sqlite"
    list(run_study(whole, plan(6)))
    for stop in (2, 5, 8):
        records = run_study(cut, plan(6))
        for _ in range(stop):
            next(records, None)
        records.close()  # type: ignore[attr-defined]
    list(run_study(cut, plan(6)))
    assert content(cut) == content(whole)


@pytest.mark.parametrize("workers", [1, 2])
def test_presets_take_turns_until_the_time_is_up(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "s.sqlite"
    list(run_study(path, plan(500, "slow", preset="paper-6,wide", workers=workers, seconds=0.3)))
    with read_study(path) as study:
        trials = study.trials()
        assert 0 < len(trials) < 400 and study.counts()[State.RUNNING] == 0
        assert abs(len(study.trials(preset="wide")) - len(study.trials(preset="paper-6"))) <= 2
    with pytest.raises(StudyError, match="twice"):
        list(run_study(path, plan(2, preset="wide,wide")))


def test_cancel_keeps_what_is_finished(tmp_path: Path) -> None:
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        for record in run_study(tmp_path / "s.sqlite", plan(6), cancel):
            if record.done == 2:
                cancel.set()
    with read_study(tmp_path / "s.sqlite") as study:
        assert study.counts()[State.DONE] == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_failures_are_recorded_and_retried_on_demand(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "s.sqlite"
    events = [r for r in run_study(path, plan(8, "fail-3", workers=workers)) if r.event in ("done", "failed")]
    failed = [r for r in events if r.event == "failed"]
    assert len(events) == 8 and 0 < len(failed) < 8 and failed[0].error == "ValueError: three bits are too few"
    assert not [r for r in run_study(path, plan(8)) if r.event == "done"]
    assert sum(r.event == "done" for r in run_study(path, plan(8, retry_failed=True))) == len(failed)
    with read_study(path) as study:
        assert study.counts()[State.DONE] == 8 and {t.attempts for t in study.trials()} == {1, 2}


def test_a_study_that_only_fails_stops(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"5 trials in a row failed .*NaN"):
        list(run_study(tmp_path / "s.sqlite", plan(20, "nan")))
    with read_study(tmp_path / "s.sqlite") as study:
        assert study.counts()[State.FAILED] == 5


def test_workers_give_what_one_process_gives(tmp_path: Path) -> None:
    list(run_study(tmp_path / "one.sqlite", plan(6)))
    records = list(run_study(tmp_path / "two.sqlite", plan(6, workers=2)))
    assert sum(r.event == "done" for r in records) == 6
    assert content(tmp_path / "one.sqlite") == content(tmp_path / "two.sqlite")


def test_a_worker_that_dies_costs_its_trial(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="workers died"):
        list(run_study(tmp_path / "s.sqlite", plan(6, "die", workers=2)))
    with read_study(tmp_path / "s.sqlite") as study:
        assert study.trials(State.FAILED)[0].error == "The worker died while measuring (exit code 9)."


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_that_cannot_be_opened(tmp_path: Path, workers: int) -> None:
    with pytest.raises((ModelError, StudyError), match="There is no model at 'absent'"):
        list(run_study(tmp_path / "s.sqlite", plan(2, "absent", workers=workers)))
    assert not (tmp_path / "s.sqlite").exists()


def test_another_model_or_machine(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    list(run_study(path, plan(2)))
    with pytest.raises(StudyError, match="another model"):
        list(run_study(path, plan(2, "other")))
    with pytest.raises(StudyError, match="--mixed"):
        list(run_study(path, plan(4, "elsewhere")))
    assert sum(r.event == "done" for r in run_study(path, plan(4, "elsewhere", mixed=True))) == 2


def test_bad_files_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").write_text("no study" * 100)
    with pytest.raises(StudyError, match="no SQLite file"):
        list(run_study(tmp_path / "s.sqlite", plan(2, "absent")))


@pytest.mark.parametrize(("trials", "shard"), [(0, (0, 1)), (5, (2, 2)), (5, (-1, 2)), (5, (0, 0))])
def test_senseless_requests(trials: int, shard: tuple[int, int]) -> None:
    with pytest.raises(StudyError):
        shard_numbers(trials, shard)


def test_shards_cover_everything_once() -> None:
    assert sorted(n for i in range(3) for n in shard_numbers(10, (i, 3))) == list(range(10))
