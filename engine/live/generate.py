"""Images from a model as an iterator: seeded per image, in batches, with progress, cancellable at every step.

Constraints: an image depends on its own prompt and seed alone, so it is the same in any batch up to the rounding
of batched arithmetic (matrix products of other shapes add in another order; under 1e-5 in [0, 1] measured); the
same request twice gives identical bytes on one machine. Noise is drawn on the CPU, so seeds mean the same on a GPU.
The pipeline runs in a thread of its own, because it does not return between steps; it ends before the iterator does.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from engine.core.errors import ModelError
from engine.live.arithmetic import exact_arithmetic
from engine.live.cancel import Cancel
from engine.live.model import Model
from engine.live.picture import Picture, Step, to_bytes
from engine.live.request import Request, checked
from engine.live.watched import Watch, watched
from engine.models.calls import call_arguments
from engine.models.memory import ran_out

MAX_BATCH = 64
BATCH_PIXELS = 512 * 512

__all__ = ["Picture", "Step", "generate", "pictures"]


def generate(model: Model, request: Request, *, cancel: Cancel | None = None, record_latents: bool = False,
             exact: bool = False, batch: int | None = None) -> Iterator[Step | Picture]:
    """Make the requested images with the recipe that is applied to the model.

    Args:
        model: see `open_model`; not to be used otherwise until the iterator ends.
        request: what to make; checked before anything runs.
        cancel: set it to stop within one denoising step.
        record_latents: keep the latents after each step.
        exact: keep the image before it is rounded to bytes, for metrics of very small differences.
        batch: images made at once; default as many as have the pixels of one 512 x 512 picture, at most 64.

    Yields:
        Step after each denoising step, Picture after each batch, in order of the request.

    Raises:
        InputError: the request is out of range.
        Cancelled: the caller asked for it; pictures yielded before stay good, and so does the model.
        ModelError: the images came out as NaN, or memory ran out.
    """
    request = checked(request, model.limits)
    size = batch or default_batch(request)
    return _batches(model, request, cancel, _Wanted(record_latents, exact), max(1, size))


def pictures(model: Model, request: Request, *, cancel: Cancel | None = None, record_latents: bool = False,
             exact: bool = False, batch: int | None = None) -> list[Picture]:
    """All pictures of `generate` as a list."""
    events = generate(model, request, cancel=cancel, record_latents=record_latents, exact=exact, batch=batch)
    return [event for event in events if isinstance(event, Picture)]


def default_batch(request: Request) -> int:
    """Images made at once unless told otherwise, for a checked request."""
    return max(1, min(MAX_BATCH, BATCH_PIXELS // ((request.height or 512) * (request.width or 512))))


@dataclass(frozen=True)
class _Wanted:
    latents: bool
    exact: bool


def _batches(model: Model, request: Request, cancel: Cancel | None, wanted: _Wanted,
             size: int) -> Iterator[Step | Picture]:
    starts = range(0, request.count, size)
    begun = time.perf_counter()
    for number, start in enumerate(starts):
        part = _part(request, start, min(start + size, request.count))
        run = _Run(model, part, cancel, wanted)
        for done, of in run.steps():
            index, total = number * of + done, len(starts) * of
            yield Step(index, total, (time.perf_counter() - begun) / index * (total - index))
        yield from run.pictures(start)


def _part(request: Request, start: int, stop: int) -> Request:
    return replace(
        request, prompts=request.prompts[start:stop], labels=request.labels[start:stop], seeds=request.seeds[start:stop]
    )


@dataclass
class _Either:
    """Set when the caller cancels or when nobody iterates any more."""

    cancel: Cancel | None
    abandoned: threading.Event = field(default_factory=threading.Event)

    def is_set(self) -> bool:
        return self.abandoned.is_set() or (self.cancel is not None and self.cancel.is_set())


class _Run:
    """One batch: the pipeline in a thread, its steps through a queue, its images at the end."""

    def __init__(self, model: Model, request: Request, cancel: Cancel | None, wanted: _Wanted) -> None:
        self._model, self._request, self._wanted = model, request, wanted
        self._stop = _Either(cancel)
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in request.seeds]
        self._watch = Watch(generators, self._stop, lambda done, of: self._events.put((done, of)), wanted.latents)
        self._arguments = self._call_arguments()
        self._images: np.ndarray = np.empty(0)

    def steps(self) -> Iterator[tuple[int, int]]:
        """(steps done, steps in all) as they happen; raises what the pipeline raised."""
        thread = threading.Thread(target=self._work, name="generate", daemon=True)
        thread.start()
        try:
            while (event := self._events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self._stop.abandoned.set()
            thread.join()

    def pictures(self, start: int) -> Iterator[Picture]:
        """The finished images; `start` is the index of the first."""
        request, latents = self._request, None
        if self._wanted.latents:
            latents = torch.stack(self._watch.latents, dim=1).float().cpu()  # [images, T, ...]
        settings = self._settings()
        for i, image in enumerate(self._images):
            yield Picture(
                start + i, request.prompts[i], request.seeds[i], to_bytes(image),
                label=request.labels[i] if request.labels else None,
                exact=_three_channels(image) if self._wanted.exact else None,
                latents=latents[i] if latents is not None else None, settings=settings,
                cut_tokens=cut_tokens(self._model.pipeline, request.prompts[i], self._arguments),
            )

    def _call_arguments(self) -> dict[str, Any]:
        arguments = dict(call_arguments(self._model.pipeline, self._request))
        return {**arguments, "generator": list(self._watch.generators), "output_type": "np"}

    def _work(self) -> None:
        model = self._model
        try:
            watching = watched(model.pipeline, model.denoiser, self._request.scheduler, self._watch)
            with watching, exact_arithmetic(), torch.no_grad():
                self._images = np.asarray(model.pipeline(**self._arguments).images, dtype=np.float32)
            if not np.isfinite(self._images).all():
                raise ModelError(f"The pictures came out as NaN: the weights are broken or overflow in {model.dtype}; "
                                 f"try float32, or other options for the layers changed last.")
            self._events.put(None)
        except (IndexError, KeyError, ValueError) as failure:
            # Pipelines and schedulers refuse some settings only by failing (PixArt takes one step for a distilled one).
            self._events.put(ModelError(
                f"{type(model.pipeline).__name__} cannot make pictures with {self._request.steps} steps and these "
                f"settings ({type(failure).__name__}: {str(failure)[:120]}); try other steps or another scheduler."))
        except BaseException as error:  # noqa: BLE001  whatever happened belongs to the thread that iterates
            self._events.put(self._explained(error))

    def _explained(self, error: BaseException) -> BaseException:
        if not ran_out(error):
            return error
        return ModelError(f"Memory on {self._model.device} ran out while {len(self._request.seeds)} pictures were made "
                          f"at once; ask for fewer or smaller ones.")

    def _settings(self) -> dict[str, Any]:
        model, request = self._model, self._request
        return {
            "model": model.structure.model, "identity": model.structure.identity, "steps": request.steps,
            "guidance": request.guidance, "scheduler": request.scheduler or type(model.pipeline.scheduler).__name__,
            "height": request.height, "width": request.width, "negative": request.negative,
            "device": model.device, "dtype": model.dtype,
        }


def cut_tokens(pipeline: Any, prompt: str, arguments: dict[str, Any]) -> int:
    """How many tokens of a prompt the (first) text encoder never reads because they are beyond its length."""
    tokenizer = getattr(pipeline, "tokenizer", None)
    if not prompt or tokenizer is None:
        return 0
    longest = min(int(tokenizer.model_max_length), int(arguments.get("max_sequence_length") or 10**9))
    return max(0, len(tokenizer(prompt, truncation=False, verbose=False).input_ids) - longest)


def _three_channels(image: np.ndarray) -> np.ndarray:
    return image if image.shape[2] == 3 else np.repeat(image[:, :, :1], 3, axis=2)


