"""Executor on a Ray cluster: one actor per worker keeps the model resident; optional, imported where used."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from engine.core.errors import EngineError, StudyError
from engine.live.cancel import Cancel, check_cancel
from engine.study.job import Event, Failed, Finished, Item, Job, Ready, Started, measured, open_bench
from engine.study.workers import POLL_S, agreed

LOCAL = "local"  # address of a cluster that is started in this process, for trying out
MAX_RESTARTS = 3
CONNECT_S = 10


class Resident:
    """What an actor holds: a bench; errors in opening it are told as text, since ours may not be known there."""

    def __init__(self, job: Job) -> None:
        self._error = ""
        try:
            self._bench = open_bench(job)
        except EngineError as error:
            self._error = str(error)

    def ready(self) -> Ready | str:
        """What the bench says of itself, or why there is none."""
        return self._error or self._bench.ready

    def measure(self, item: Item) -> Finished | Failed:
        """One item."""
        return measured(self._bench, item)


@contextlib.contextmanager
def on_ray(job: Job, address: str, workers: int) -> Iterator[Cluster]:
    """`workers` actors on the cluster at `address` ("auto", "host:port", "ray://host:port", or "local").

    Raises:
        StudyError: Ray is not installed, the cluster cannot be reached or is too small, or a worker could not open the
            model.
    """
    try:
        import ray
    except ImportError:
        raise StudyError("--ray needs the package ray, which is not installed: pip install 'quantscape[ray]' "
                         "(ray==2.60.0).") from None
    # An actor takes a whole GPU, or the processors its torch threads will use.
    needs = {"num_gpus": 1, "num_cpus": 1} if job.device.startswith("cuda") else {"num_cpus": job.threads or 1}
    _connect(ray, address)
    actors: list[Any] = []
    try:
        _require_room(ray.cluster_resources(), needs, workers)
        remote = ray.remote(**needs, max_restarts=MAX_RESTARTS)(Resident)
        actors += [remote.remote(job) for _ in range(workers)]
        yield Cluster(ray, actors)
    finally:
        for actor in actors:
            ray.kill(actor)
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    import os

    _refuse_silence(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=None if address == LOCAL else address, logging_level="ERROR", log_to_driver=False,
                 include_dashboard=False if address == LOCAL else None)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise StudyError(f"No Ray cluster answers at {address!r} ({first}); start one with `ray start --head`, or "
                         f"leave --ray away.") from None


def _require_room(have: Mapping[str, float], needs: Mapping[str, int], workers: int) -> None:
    """Refuse more workers than the cluster has room for: Ray would wait for ever for the last ones."""
    for name, resource, title in (("num_gpus", "GPU", "GPUs"), ("num_cpus", "CPU", "processors")):
        wanted = needs.get(name, 0) * workers
        if wanted > have.get(resource, 0):
            raise StudyError(f"The Ray cluster has {have.get(resource, 0):g} {title} and {workers} workers need "
                             f"{wanted}; ask for fewer with --workers or --threads.")


def _refuse_silence(address: str) -> None:
    """Knock before Ray does: Ray itself waits for minutes where nobody answers."""
    import socket

    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise StudyError(f"No Ray cluster answers at {address[:80]!r} ({error}); start one with `ray start --head`, or "
                         f"leave --ray away.") from None


class Cluster:
    """Actors that each measure one item at a time; one that dies costs its trial and is restarted by Ray."""

    def __init__(self, ray: Any, actors: Sequence[Any]) -> None:
        self._ray = ray
        self._actors = list(actors)
        answers = self._get([actor.ready.remote() for actor in self._actors])
        for answer in answers:
            if isinstance(answer, str):
                raise StudyError(answer)
        self.ready = agreed(answers)

    def run(self, items: Iterable[Item], cancel: Cancel | None = None) -> Iterator[Event]:
        """See `Executor`."""
        waiting, idle, busy = iter(items), deque(self._actors), {}
        while True:
            while idle and (item := next(waiting, None)):
                yield Started(item.id)
                actor = idle.popleft()
                busy[actor.measure.remote(item)] = actor, item
            if not busy:
                return
            check_cancel(cancel)
            done, _ = self._ray.wait(list(busy), num_returns=1, timeout=POLL_S)
            for handle in done:
                actor, item = busy.pop(handle)
                idle.append(actor)
                yield self._answer(handle, item)

    def _answer(self, handle: Any, item: Item) -> Event:
        try:
            event: Event = self._ray.get(handle)
            return event
        except self._ray.exceptions.RayError as error:
            return Failed(item.id, f"The Ray worker was lost ({type(error).__name__}).")

    def _get(self, handles: list[Any]) -> list[Any]:
        try:
            answers: list[Any] = self._ray.get(handles)
            return answers
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[0][:160]
            raise StudyError(f"The Ray workers could not start ({type(error).__name__}: {first}); the same version of "
                             f"this program must be installed on every node.") from None
