"""What a worker needs to know to measure recipes, as plain data that can be sent to another process or machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from engine.core.errors import StudyError
from engine.core.graph import Structure
from engine.core.option import Option
from engine.live.cancel import Cancel
from engine.study import protocol as study_protocol
from engine.study.trial import Measurement

DEFAULT_IMAGES = 64


@dataclass(frozen=True, slots=True)
class Job:
    """Which images of which model, and on what. What is None is the model's default.

    Attributes:
        source: what the model is opened by.
        images: M, images per trial.
        steps, guidance: of the sampler.
        device: "cpu", "cuda" or "cuda:1".
        threads: torch threads of each worker; None leaves torch's own number, divided by the workers.
        batch: images generated together; None is all on a GPU, 16 on a CPU.
        extractor: feature space by name; "" is the CLIP beside the model, or the random conv net.
        store: directory of quantized layers; "" is the model's own in the cache.
        graphs: replay the denoiser as CUDA graphs; no effect on a CPU.
        options: what to quantize before the first trial; the rest is quantized when a recipe asks for it.
        bench: "module:function" that opens the bench; the default measures with diffusers.
    """

    source: str
    images: int = DEFAULT_IMAGES
    steps: int | None = None
    guidance: float | None = None
    device: str = "cpu"
    threads: int | None = None
    batch: int | None = None
    extractor: str = ""
    store: str = ""
    graphs: bool = True
    options: tuple[str, ...] = ()
    bench: str = "engine.study.bench:open_bench"


@dataclass(frozen=True, slots=True)
class Ready:
    """What a worker says once its model is loaded and the full-precision images are made."""

    protocol: study_protocol.Protocol
    environment: study_protocol.Environment
    structure: Structure


@dataclass(frozen=True, slots=True)
class Item:
    """One recipe to measure; `id` is the trial's."""

    id: int
    options: Mapping[str, Option]


@dataclass(frozen=True, slots=True)
class Started:
    """A worker took up a trial."""

    id: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A trial was measured."""

    id: int
    measurement: Measurement


@dataclass(frozen=True, slots=True)
class Failed:
    """A trial could not be measured, and why."""

    id: int
    error: str


Event = Started | Finished | Failed


class Bench(Protocol):
    """A loaded model that measures recipes."""

    ready: Ready

    def measure(self, options: Mapping[str, Option], cancel: Cancel | None = None) -> Measurement:
        """Generate the images under a recipe and compare them with the full-precision ones."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class Executor(Protocol):
    """One or several benches; made by the context managers in `workers` and `cluster`."""

    ready: Ready

    def run(self, items: Iterable[Item], cancel: Cancel | None = None) -> Iterator[Event]:
        """Measure items, yielding events as they happen, in no promised order across workers.

        An item is taken only when a bench is free for it.
        """
        ...


ExecutorFactory = AbstractContextManager[Executor]


def open_bench(job: Job) -> Bench:
    """The bench a job names.

    Raises:
        StudyError: `bench` names no function.
    """
    import importlib

    module, _, function = job.bench.partition(":")
    try:
        opener: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise StudyError(f"The bench {job.bench!r} cannot be opened ({error}).") from None
    bench: Bench = opener(job)
    return bench


def measured(bench: Bench, item: Item, cancel: Cancel | None = None) -> Finished | Failed:
    """One item measured; whatever goes wrong becomes part of the record, except cancelling."""
    from engine.core.errors import Cancelled

    try:
        return Finished(item.id, bench.measure(item.options, cancel))
    except Cancelled:
        raise
    except Exception as error:  # noqa: BLE001  the worker is an edge: a trial that fails is a recorded state
        return Failed(item.id, f"{type(error).__name__}: {str(error).strip() or 'no message'}"[:1000])
