"""Long work beside the page: followed by its lines, cancelled, and every ending is a sentence."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.cli.fit import ADDITIVE, KINDS, NETWORKS
from engine.core.errors import InputError
from explorer import jobs as jobs_module
from explorer.jobs import Job, Jobs, Standing, parsed
from explorer.studying import bar_value


def job_of(code: str) -> Job:
    process = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    job = Job("study", "m", Path("s.sqlite"), process)
    job.follow()
    return job


def ended(job: Job, within_s: float = 20.0) -> Standing:
    end = time.monotonic() + within_s
    while job.ended is None and time.monotonic() < end:
        time.sleep(0.02)
    return job.standing()


PROGRESS = """
import json, sys
def say(**f): print(json.dumps(f), file=sys.stderr, flush=True)
say(event="loading")
say(event="ready", done=0, total=4, left_s=None)
say(event="failed", done=1, total=4, left_s=9.0, error="NaN")
say(event="done", done=2, total=4, left_s=6.0)
"""


def test_a_job_is_followed_to_its_result() -> None:
    standing = ended(job_of(PROGRESS + "print(json.dumps({'trials': 2}))"))
    assert not standing.running and standing.error == "" and standing.result == {"trials": 2}
    assert (standing.done, standing.total, standing.failed) == (2, 4, 1)


def test_progress_has_words_and_time_left() -> None:
    job = job_of(PROGRESS + "import time; time.sleep(60)")
    end = time.monotonic() + 20
    while job.standing().done < 2 and time.monotonic() < end:
        time.sleep(0.02)
    value = bar_value(job.standing())
    assert value["running"] and value["text"] == "Measuring, 2 of 4, 1 failed" and value["left"] == "6 s left"
    job.stop()
    standing = ended(job)
    assert not standing.running and standing.error == "Cancelled; what was finished is kept."


@pytest.mark.parametrize(("code", "said"), [
    ("import sys; print('The disk is full.', file=sys.stderr); sys.exit(2)", "The disk is full."),
    ("raise ValueError('x')", "ended unexpectedly with code 1 (ValueError: x)"),
])
def test_a_bad_ending_is_one_sentence(code: str, said: str) -> None:
    standing = ended(job_of(code))
    assert said in standing.error and standing.result is None and bar_value(standing)["error"]


def test_one_job_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def spawn(arguments: list[str]) -> subprocess.Popen[str]:
        seen.append(list(arguments))
        return job_of("import time; time.sleep(60)").process

    monkeypatch.setattr(jobs_module, "spawn", spawn)
    jobs = Jobs()
    assert not jobs.standing().running
    job = jobs.start("study", "m", Path("a.sqlite"), ["m", "--db", "a.sqlite"])
    with pytest.raises(InputError, match="running already"):
        jobs.start("fit", "m", Path("a.sqlite"), ["a.sqlite"])
    jobs.stop()
    assert ended(job).error.startswith("Cancelled")
    assert seen == [["study", "m", "--db", "a.sqlite", "--json", "--progress"]]
    jobs.start("fit", "m", Path("a.sqlite"), ["a.sqlite"]).stop()


def test_lines_that_are_no_objects_are_text() -> None:
    assert parsed('{"event": "done"}') == {"event": "done"}
    assert parsed("{not json") is None and parsed("[1]") is None and parsed("plain") is None


@pytest.mark.parametrize("kinds", [["damage"], list(ADDITIVE), ["damage", "gnn", "guided"], list(KINDS)])
def test_a_fit_says_how_far_it_is(kinds: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    from engine.analysis.fitting import Fold
    from engine.analysis.training import Epoch
    from engine.cli.fit import _followed

    def steps() -> Iterator[Fold | Epoch]:
        for fold in range(5):
            yield Fold(fold + 1, 5)
            for _ in set(kinds) & set(NETWORKS):
                yield from (Epoch(fold, number, 60, 1.0, 1.0, True) for number in range(1, 31))

    with pytest.raises(AssertionError, match="ends with its predictor"):
        _followed(steps(), argparse.Namespace(progress=True, kinds=kinds))
    done = [parsed(line) or {} for line in capsys.readouterr().err.splitlines()]
    shares = [row["done"] / row["total"] for row in done]
    assert shares == sorted(shares) and shares[-1] <= 1.0
    assert shares[-1] > 0.9 if set(kinds) & set(NETWORKS) else shares[-1] == 1.0


def test_words_of_kinds_are_the_kinds() -> None:
    from engine.analysis.fitting import KINDS as RECORDS
    from engine.analysis.fitting import NETWORKS as NETS

    assert KINDS == tuple(map(str, RECORDS)) and NETWORKS == tuple(map(str, NETS))


def test_what_follows_a_job_is_done_before_it_is_said_to_have_ended() -> None:
    seen: list[bool] = []
    for code, expected in (("pass", [True]), ("raise SystemExit(2)", [])):
        seen.clear()
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
        job = Job("fit", "m", None, process)
        job.then = lambda job=job: seen.append(job.ended is None)  # type: ignore[misc]
        job.follow()
        assert not ended(job).running and seen == expected


def test_a_cancel_button_ends_jobs_of_its_own_kind_alone() -> None:
    jobs, job = Jobs(), job_of("import time; time.sleep(60)")
    jobs.current = job
    jobs.stop("bench")
    assert not job.cancelled
    jobs.stop("study", "fit")
    assert job.cancelled and not ended(job).running
