"""A study as an iterator of records: plan, measure, keep, say how long it will take."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.core.errors import StudyError
from engine.live.cancel import Cancel
from engine.study.cluster import on_ray
from engine.study.job import Executor, Failed, Finished, Item, Job, Started
from engine.study.sampling import Draw, draw, parse_presets
from engine.study.storage import Study, open_study
from engine.study.trial import Measurement, Trial
from engine.study.workers import in_process, in_processes

FAILURES_IN_A_ROW = 5
RECENT = 20  # trials the time left is computed from


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and by whom.

    Attributes:
        job: which images of which model.
        trials: how many trials of each preset there shall be in all; raise it to extend a study.
        preset: see `sampling.PRESETS`; several, separated by commas, take turns.
        seed: of the draws.
        workers: spawned processes, or Ray actors.
        ray: address of a Ray cluster, "" without.
        shard: (i, n): only trials whose number is i modulo n, i from 0.
        retry_failed: measure failed trials again.
        mixed: continue a file that was measured in another environment.
        seconds: begin no trial later than this after the model is ready; None is no limit.
    """

    job: Job
    trials: int
    preset: str = "paper-6"
    seed: int = 0
    workers: int = 1
    ray: str = ""
    shard: tuple[int, int] = (0, 1)
    retry_failed: bool = False
    mixed: bool = False
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """Yielded when the study is ready (`trial` None), when a trial starts, and when it ends.

    Attributes:
        trial: which, or None.
        event: "ready", "started", "done" or "failed".
        done, total: of this run; `total` counts what was still to be measured when it began.
        eta_s: seconds left by the recent pace; None before the first trial ended.
        measurement: of a done trial.
        error: of a failed one.
    """

    trial: Trial | None
    event: str
    done: int
    total: int
    eta_s: float | None = None
    measurement: Measurement | None = None
    error: str = ""


def run_study(path: str | Path, plan: Plan, cancel: Cancel | None = None) -> Iterator[Record]:
    """Measure what is missing of a plan; run again to resume, with more trials to extend.

    Raises:
        StudyError: see `open_study`; nothing sensible asked for; five trials in a row failed.
        Cancelled: `cancel` was set; what was finished is kept.
    """
    presets, numbers = parse_presets(plan.preset), shard_numbers(plan.trials, plan.shard)
    if plan.job.images < 1 or plan.workers < 1:
        raise StudyError(f"--images and --workers must be at least 1, got {plan.job.images} and {plan.workers}.")
    refuse_before_loading(Path(path))
    options = dict.fromkeys(str(option) for preset in presets for option in preset.options)
    with executor(replace(plan, job=replace(plan.job, options=tuple(options)))) as bench:
        structure = bench.ready.structure
        draws = [draw(structure, preset, plan.seed, number) for number in numbers for preset in presets]
        yield from measure_draws(path, draws, bench, cancel, retry_failed=plan.retry_failed, mixed=plan.mixed,
                                 seconds=plan.seconds)


def measure_draws(path: str | Path, draws: Sequence[Draw], bench: Executor, cancel: Cancel | None = None, *,
                  retry_failed: bool = False, mixed: bool = False, seconds: float | None = None) -> Iterator[Record]:
    """Measure any recipes into a study file (those already measured are skipped); see `run_study`.

    Recipes of other origin than a preset are `Draw`s with a `preset` name and numbers of their own.
    """
    with open_study(path, bench.ready.protocol) as study:
        environment = study.admit(bench.ready.environment, mixed=mixed)
        todo = study.plan(draws, bench.ready.structure, environment, retry_failed=retry_failed)
        yield Record(None, "ready", 0, len(todo))
        with contextlib.closing(_measure(study, todo, bench, cancel, seconds)) as records:
            yield from records


def _measure(study: Study, todo: Sequence[Trial], bench: Executor, cancel: Cancel | None,
             seconds: float | None) -> Generator[Record, None, None]:
    trials = {trial.id: trial for trial in todo}
    pace = _Pace(len(todo))
    failures = 0
    for event in bench.run(_until(seconds, [Item(t.id, t.options) for t in todo]), cancel):
        trial = trials[event.id]
        match event:
            case Started():
                study.start(trial.id)
                yield Record(trial, "started", pace.done, pace.total, pace.eta_s())
                continue
            case Finished(measurement=measurement):
                error = _keep(study, trial, measurement)
            case Failed(error=error):
                study.fail(trial.id, error)
        pace.tick()
        failures = failures + 1 if error else 0
        if error:
            yield Record(trial, "failed", pace.done, pace.total, pace.eta_s(), error=error)
        else:
            yield Record(trial, "done", pace.done, pace.total, pace.eta_s(), measurement)
        if failures >= FAILURES_IN_A_ROW:
            raise StudyError(f"{failures} trials in a row failed ({error[:160]}); the study was stopped. Once the "
                             f"cause is gone, start it again with --retry-failed.")


def _until(seconds: float | None, items: Sequence[Item]) -> Iterator[Item]:
    """Hand out items until the time is up; those already handed out are finished."""
    end = time.monotonic() + seconds if seconds is not None else float("inf")
    return itertools.takewhile(lambda _: time.monotonic() < end, items)


def _keep(study: Study, trial: Trial, measurement: Measurement) -> str:
    """Write a measurement; "" or, where it holds NaN, why it was refused."""
    bad = measurement.flaw()
    if bad:
        study.fail(trial.id, bad)
        return bad
    study.finish(trial.id, measurement)
    return ""


class _Pace:
    """Trials ended so far, and the time left by the recent pace."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total
        self._ends: deque[float] = deque([time.perf_counter()], maxlen=RECENT + 1)

    def tick(self) -> None:
        self.done += 1
        self._ends.append(time.perf_counter())

    def eta_s(self) -> float | None:
        count = len(self._ends) - 1
        return (self._ends[-1] - self._ends[0]) / count * (self.total - self.done) if count else None


def executor(plan: Plan) -> AbstractContextManager[Any]:
    """Who measures: this process, spawned ones, or a Ray cluster."""
    if plan.ray:
        return on_ray(plan.job, plan.ray, plan.workers)
    return in_process(plan.job) if plan.workers == 1 else in_processes(plan.job, plan.workers)


def shard_numbers(trials: int, shard: tuple[int, int]) -> range:
    """Trial numbers of one shard.

    Raises:
        StudyError: no trials, or i is not from 0 to n - 1.
    """
    index, count = shard
    if trials < 1:
        raise StudyError(f"--trials must be at least 1, got {trials}.")
    if count < 1 or not 0 <= index < count:
        raise StudyError(f"--shard {index}/{count} does not exist; shards of n are 0/n to n-1/n.")
    return range(index, trials, count)


def refuse_before_loading(path: Path) -> None:
    """Say what is wrong with a study file before minutes go into loading the model.

    Raises:
        StudyError: see `open_for_writing`.
    """
    from engine.study.schema import open_for_writing, writer_lock

    if path.exists() or not path.parent.is_dir():
        with writer_lock(path):
            open_for_writing(path)[0].close()
