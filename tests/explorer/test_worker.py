"""The device queue: order, cancelling, superseding, errors and places."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from engine.core.errors import Cancelled, InputError
from explorer.worker import Waiting, Worker


def counting(n: int):
    def work(cancel: threading.Event) -> Iterator[int]:
        for i in range(n):
            if cancel.is_set():
                raise Cancelled("stopped")
            yield i
    return work


def blocking(release: threading.Event, begun: threading.Event):
    def work(cancel: threading.Event) -> Iterator[str]:
        begun.set()
        while not release.wait(0.01):
            if cancel.is_set():
                raise Cancelled("stopped")
        yield "done"
    return work


def test_events_arrive_in_order() -> None:
    worker = Worker()
    assert list(worker.events(worker.submit(counting(5), "me"))) == list(range(5))


def test_errors_reach_the_reader_and_the_worker_lives_on() -> None:
    worker = Worker()

    def failing(_cancel: threading.Event) -> Iterator[int]:
        yield 1
        raise InputError("no such thing")

    job = worker.submit(failing, "me")
    with pytest.raises(InputError, match="no such thing"):
        list(worker.events(job))

    def broken(_cancel: threading.Event) -> Iterator[int]:
        raise ZeroDivisionError
        yield

    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(worker.events(worker.submit(broken, "me")))
    assert list(worker.events(worker.submit(counting(2), "me"))) == [0, 1]


def test_a_new_job_supersedes_only_its_owners_older_ones() -> None:
    worker = Worker()
    release, begun = threading.Event(), threading.Event()
    running = worker.submit(blocking(release, begun), "ann")
    begun.wait(5)
    of_bob = worker.submit(counting(1), "bob")
    newer = worker.submit(counting(2), "ann")
    with pytest.raises(Cancelled):
        list(worker.events(running))
    assert list(worker.events(of_bob)) == [0]
    assert list(worker.events(newer)) == [0, 1]


def test_waiting_tells_the_place_in_the_queue() -> None:
    worker = Worker()
    release, begun = threading.Event(), threading.Event()
    worker.submit(blocking(release, begun), "ann")
    begun.wait(5)
    second, third = worker.submit(counting(1), "bob"), worker.submit(counting(1), "eve")
    events = worker.events(third, poll_s=0.02)
    assert next(events) == Waiting(2)
    release.set()
    assert [e for e in events if not isinstance(e, Waiting)] == [0]
    assert list(worker.events(second)) == [0]


def test_closing_a_tab_cancels_its_jobs() -> None:
    worker = Worker()
    release, begun = threading.Event(), threading.Event()
    job = worker.submit(blocking(release, begun), "ann")
    begun.wait(5)
    queued = worker.submit(counting(3), "ann", supersede=False)
    worker.cancel("ann")
    for cancelled in (job, queued):
        with pytest.raises(Cancelled):
            list(worker.events(cancelled))
