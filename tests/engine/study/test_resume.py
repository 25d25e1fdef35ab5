"""kill -9 at random moments: the file an interrupted study ends with equals an undisturbed one's."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dump import CHILD_PATH, content
from fake_bench import BENCH

from engine.study.job import Job
from engine.study.runner import Plan, run_study
from engine.study.storage import read_study
from engine.study.trial import State

TRIALS = 30
CODE = ("import sys; from engine.study.job import Job; from engine.study.runner import Plan, run_study\n"
        "for r in run_study(sys.argv[1], Plan(Job('slow', bench=sys.argv[2]), int(sys.argv[3]))):\n"
        "    print(r.event, flush=True)\n")


def start(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CODE, str(path), BENCH, str(TRIALS)],
                            env={**os.environ, "PYTHONPATH": CHILD_PATH}, stdout=subprocess.PIPE)


def kill_after_ready(path: Path, seconds: float) -> None:
    process = start(path)
    assert process.stdout is not None
    process.stdout.readline()  # "ready"; imports take longer than trials here
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def undisturbed(path: Path) -> Path:
    list(run_study(path, Plan(Job("", bench=BENCH), TRIALS)))
    return path


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_and_resumed(tmp_path: Path, kills: int) -> None:
    path, rng = tmp_path / "killed.sqlite", random.Random(kills)
    lost = 0
    for _ in range(kills):
        before = done(path)
        kill_after_ready(path, rng.uniform(0, 0.12))
        assert done(path) >= before  # nothing finished is ever lost
        with read_study(path) as study:
            lost = max(lost, study.counts()[State.RUNNING])
    assert lost <= 1
    last = start(path)
    assert last.communicate()[0] and last.returncode == 0
    assert content(path) == content(undisturbed(tmp_path / "whole.sqlite"))


def done(path: Path) -> int:
    if not path.exists():
        return 0
    with read_study(path) as study:
        return study.counts()[State.DONE]
