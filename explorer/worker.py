"""One queue per device: jobs of all viewers run one after the other, each can be cancelled, each knows its place.

Torch work is neither re-entrant (a model holds one recipe at a time) nor faster in parallel on one device, so a
single thread runs it. A job is a generator function; what it yields is handed to whoever iterates `Job.events()`.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.core.errors import Cancelled, EngineError

_END = object()


@dataclass(frozen=True, slots=True)
class Waiting:
    """Yielded while a job has not begun: how many jobs are ahead of it."""

    ahead: int


@dataclass(eq=False)
class Job:
    """One piece of work: submit it, iterate its events, cancel it at any time."""

    work: Callable[[threading.Event], Iterator[Any]]
    owner: str
    cancel: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)
    results: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)

    def drop(self) -> None:
        """End it before it began, so that whoever reads its results waits no longer."""
        self.cancel.set()
        self.results.put(Cancelled("Cancelled before it began."))
        self.results.put(_END)
        self.started.set()

    def run(self) -> None:
        """Drain the generator into the results; errors travel as values and are raised at the reader."""
        self.started.set()
        try:
            if self.cancel.is_set():
                raise Cancelled("Cancelled before it began.")
            for event in self.work(self.cancel):
                self.results.put(event)
        except Exception as error:  # noqa: BLE001  the worker is an edge: whatever fails belongs to the reader
            self.results.put(error)
        finally:
            self.results.put(_END)


class Worker:
    """The thread of one device."""

    def __init__(self, name: str = "device") -> None:
        self._jobs: list[Job] = []
        self._current: Job | None = None
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name=f"worker-{name}", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[threading.Event], Iterator[Any]], owner: str, *, supersede: bool = True) -> Job:
        """Queue a job. With `supersede`, the owner's earlier jobs are cancelled: only the newest picture matters."""
        job = Job(work, owner)
        with self._condition:
            if supersede:
                self._cancel_of(owner)
            self._jobs.append(job)
            self._condition.notify()
        return job

    def cancel(self, owner: str) -> None:
        """Cancel all jobs of one owner (a closed tab, a cancel button)."""
        with self._condition:
            self._cancel_of(owner)

    def busy(self, owner: str) -> bool:
        """Whether a job of this owner waits or runs, and was not cancelled."""
        with self._condition:
            jobs = [*self._jobs, *([self._current] if self._current else [])]
            return any(j.owner == owner and not j.cancel.is_set() for j in jobs)

    def _cancel_of(self, owner: str) -> None:
        for job in [j for j in self._jobs if j.owner == owner]:
            self._jobs.remove(job)
            job.drop()
        if self._current and self._current.owner == owner:
            self._current.cancel.set()

    def ahead(self, job: Job) -> int:
        """Live jobs that run before this one."""
        with self._condition:
            if job not in self._jobs:
                return 0
            before = itertools.takewhile(lambda j: j is not job, self._jobs)
            return sum(not j.cancel.is_set() for j in before) + (self._current is not None)

    def events(self, job: Job, poll_s: float = 0.25) -> Iterator[Any]:
        """What the job yields, in order, preceded by `Waiting` while others are ahead; raises what it raised."""
        told = 0
        while True:
            try:
                event = job.results.get(timeout=poll_s if not job.started.is_set() else None)
            except queue.Empty:
                ahead = self.ahead(job)
                if ahead != told and not job.started.is_set():
                    told = ahead
                    yield Waiting(ahead)
                continue
            if event is _END:
                return
            if isinstance(event, EngineError):
                raise event
            if isinstance(event, Exception):
                raise RuntimeError(f"unexpected failure: {event!r}") from event
            yield event

    def _loop(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: bool(self._jobs))
                self._current = self._jobs.pop(0)
            self._current.run()
            with self._condition:
                self._current = None
