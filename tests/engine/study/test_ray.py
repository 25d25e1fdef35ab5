"""A real Ray cluster, started here: it measures what one process measures, and a lost worker is a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dump import CHILD_PATH, content
from fake_bench import BENCH

from engine.core.errors import StudyError
from engine.models.tiny import TINY
from engine.study.job import Job
from engine.study.runner import Plan, run_study
from engine.study.storage import read_study
from engine.study.trial import State

pytest.importorskip("ray", reason="needs ray: pip install 'quantscape[ray]'")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _found_by_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors import this program and the fake bench from where the tests do, and see two processors."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([CHILD_PATH, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 2}')


def test_two_actors_measure_what_one_process_does(tmp_path: Path) -> None:
    TINY["ddpm"]().save_pretrained(tmp_path / "model")
    job = Job(str(tmp_path / "model"), images=2, steps=2, threads=1)
    records = list(run_study(tmp_path / "ray.sqlite", Plan(job, 4, ray="local", workers=2)))
    assert [r.event for r in records].count("done") == 4
    assert [r.event for r in records[:3]] == ["ready", "started", "started"]  # both actors at once
    list(run_study(tmp_path / "one.sqlite", Plan(job, 4)))
    assert content(tmp_path / "ray.sqlite") == content(tmp_path / "one.sqlite")


def test_lost_actors_cost_their_trials_and_too_many_are_refused(tmp_path: Path) -> None:
    list(run_study(tmp_path / "s.sqlite", Plan(Job("die", bench=BENCH, threads=1), 3, ray="local", workers=2)))
    with read_study(tmp_path / "s.sqlite") as study:
        assert [t.error.startswith("The Ray worker was lost (") for t in study.trials(State.FAILED)] == [True] * 3
    with pytest.raises(StudyError, match="has 2 processors and 3 workers need 3"):
        list(run_study(tmp_path / "s.sqlite", Plan(Job("", bench=BENCH, threads=1), 3, ray="local", workers=3)))
