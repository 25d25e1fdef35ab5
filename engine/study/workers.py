"""Executors on this machine: in this process, or in spawned ones that send results back to the one writer."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from engine.core.errors import EngineError, StudyError
from engine.live.cancel import Cancel, check_cancel
from engine.study.job import Bench, Event, Failed, Item, Job, Ready, Started, measured, open_bench

POLL_S = 0.2
MAX_DEATHS = 3


@contextlib.contextmanager
def in_process(job: Job) -> Iterator[Serial]:
    """One bench in this process."""
    bench = open_bench(job)
    try:
        yield Serial(bench)
    finally:
        bench.close()


class Serial:
    """Measures one item after the other."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.ready = bench.ready

    def run(self, items: Iterable[Item], cancel: Cancel | None = None) -> Iterator[Event]:
        """See `Executor`."""
        for item in items:
            check_cancel(cancel)
            yield Started(item.id)
            yield measured(self.bench, item, cancel)


@contextlib.contextmanager
def in_processes(job: Job, workers: int) -> Iterator[Pool]:
    """`workers` spawned processes, each with a bench of its own and its share of the threads.

    Raises:
        StudyError: a worker could not open the model, or the workers see different machines or models.
    """
    if workers < 1:
        raise StudyError(f"--workers must be at least 1, got {workers}.")
    job = replace(job, threads=job.threads or max(1, (os.cpu_count() or 1) // workers))
    pool = Pool(job, workers)
    try:
        pool.ready = agreed([hand.await_ready() for hand in pool.hands])
        yield pool
    finally:
        pool.close()


def agreed(ready: Sequence[Ready]) -> Ready:
    """The one thing all workers say of themselves.

    Raises:
        StudyError: they differ.
    """
    first = ready[0]
    for other in ready[1:]:
        if other.protocol.hash != first.protocol.hash or other.environment.hash != first.environment.hash:
            raise StudyError(f"The workers do not agree ({first.environment} against {other.environment}); "
                             f"run one study per kind of machine and merge them.")
    return first


@dataclass(eq=False)
class Hand:
    """One spawned process and the pipe to it."""

    process: Any
    pipe: Connection
    item: Item | None = None

    def await_ready(self) -> Ready:
        """What the worker says once it is loaded.

        Raises:
            StudyError: it could not load, or died.
        """
        try:
            answer = self.pipe.recv()
        except EOFError:
            self.process.join()
            raise StudyError(f"A worker died while loading (exit code {self.process.exitcode}); there may be too "
                             f"little memory: use fewer workers.") from None
        if isinstance(answer, str):
            raise StudyError(answer)
        ready: Ready = answer
        return ready


class Pool:
    """Spawned workers; a worker that dies costs its trial and is replaced."""

    ready: Ready

    def __init__(self, job: Job, workers: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._job = job
        self._deaths = 0
        self.hands = [self._hire() for _ in range(workers)]

    def run(self, items: Iterable[Item], cancel: Cancel | None = None) -> Iterator[Event]:
        """See `Executor`."""
        waiting = iter(items)
        while True:
            for hand in self.hands:
                if hand.item is None and (item := next(waiting, None)):
                    hand.item = item
                    yield Started(item.id)
                    with contextlib.suppress(OSError):  # a dead worker is found below
                        hand.pipe.send(hand.item)
            check_cancel(cancel)
            busy = {hand.pipe: hand for hand in self.hands if hand.item}
            if not busy:
                return
            for pipe in wait(list(busy), timeout=POLL_S):
                yield self._answer(busy[pipe])  # type: ignore[index]

    def _answer(self, hand: Hand) -> Event:
        item, hand.item = hand.item, None
        assert item is not None
        try:
            event: Event = hand.pipe.recv()
            return event
        except (EOFError, OSError):
            hand.process.join()
            code = hand.process.exitcode
        self._deaths += 1
        if self._deaths > MAX_DEATHS:
            raise StudyError(f"{self._deaths} workers died (last exit code {code}); there may be too little memory: "
                             f"use fewer workers. What was finished is kept.")
        self.hands[self.hands.index(hand)] = fresh = self._hire()
        fresh.await_ready()
        return Failed(item.id, f"The worker died while measuring (exit code {code}).")

    def _hire(self) -> Hand:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(self._job, theirs), daemon=True)
        process.start()
        theirs.close()
        return Hand(process, ours)

    def close(self) -> None:
        """End all workers at once; a trial they are in the middle of is lost."""
        for hand in self.hands:
            hand.pipe.close()
            hand.process.terminate()
        for hand in self.hands:
            hand.process.join(timeout=5)


def _work(job: Job, pipe: Connection) -> None:
    """Life of a spawned worker: load, say so, then answer items until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the writer
    try:
        bench = open_bench(job)
    except EngineError as error:
        pipe.send(str(error))
        return
    pipe.send(bench.ready)
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(measured(bench, pipe.recv()))
