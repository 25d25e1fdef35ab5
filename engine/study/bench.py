"""A loaded model that measures recipes: full-precision images and features once, then one comparison per recipe.

Constraints: float32 and deterministic kernels, also on a GPU (no TF32); what is generated lies on the same prompts
and seeds for every recipe; beyond generating, a trial costs a few percent of its time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engine.core.option import Option, parse_option
from engine.core.recipe import Recipe, model_ref
from engine.core.sizes import sensible_options
from engine.live.apply import apply_all, restore
from engine.live.arithmetic import exact_arithmetic
from engine.live.cancel import Cancel
from engine.live.generate import default_batch, pictures
from engine.live.model import Model, open_model
from engine.live.picture import Picture
from engine.live.request import Request, checked
from engine.live.store import Store, build, requests
from engine.metrics.features import Extractor, find_extractor, load_extractor
from engine.models.identity import identity_of
from engine.providers.prompts import request_for, split_of
from engine.study.job import Job, Ready
from engine.study.protocol import Environment, Protocol
from engine.study.reference import Reference
from engine.study.replay import replayed
from engine.study.schema import writer_lock
from engine.study.trial import Measurement

DTYPE = "float32"
PART = "study"  # of the prompts
CPU_BATCH = 16
BUILD_WAIT_S = 24 * 3600.0
PACKAGES = ("torch", "diffusers", "transformers", "numba")


def open_bench(job: Job) -> DiffusersBench:
    """Load a job's model and make its full-precision images.

    Raises:
        ModelError, InputError, StoreError: the model, the request or the store cannot be used.
    """
    return DiffusersBench(job)


class DiffusersBench:
    """See `job.Bench`."""

    def __init__(self, job: Job, source: Any = None) -> None:
        """`source` may be a pipeline in memory, used instead of `job.source`."""
        with contextlib.ExitStack() as stack:
            if job.threads:
                stack.callback(torch.set_num_threads, torch.get_num_threads())
                torch.set_num_threads(job.threads)
            self.model = open_model(job.source if source is None else source, device=job.device, dtype=DTYPE,
                                    store=job.store or None)
            stack.callback(self.model.close)
            split = split_of(self.model)
            wanted = request_for(split, PART, job.images, steps=job.steps, guidance=job.guidance)
            self._request = checked(wanted, self.model.limits)
            self._batch = job.batch or _default_batch(self.model, self._request)
            _quantize_ahead(self.model, job.options)
            self.replay = stack.enter_context(
                replayed(self.model.denoiser, torch.device(job.device), wanted=job.graphs))
            restore(self.model)
            extractor = _extractor(job, self.model)
            with exact_arithmetic():
                self._reference = Reference(self._generate(None), extractor, job.device)
            self.ready = Ready(_protocol(self.model, self._request, split.hash, extractor),
                               environment_of(job.device, self._batch), self.model.structure)
            self._stack = stack.pop_all()

    def measure(self, options: Mapping[str, Option], cancel: Cancel | None = None) -> Measurement:
        """See `job.Bench`."""
        start = time.perf_counter()
        with exact_arithmetic():
            apply_all(self.model, Recipe(model_ref(self.model.structure), options), cancel=cancel)
            begin = time.perf_counter()
            made = self._generate(cancel)
            generating = time.perf_counter() - begin
            metrics = self._reference.compare(made)
        return Measurement(metrics, time.perf_counter() - start, generating)

    def close(self) -> None:
        """Give the model, its memory and the thread count back."""
        self._stack.close()

    def _generate(self, cancel: Cancel | None) -> list[Picture]:
        return pictures(self.model, self._request, cancel=cancel, record_latents=True, exact=True, batch=self._batch)


def environment_of(device: str, batch: int) -> Environment:
    """This machine, as far as numbers depend on it."""
    from importlib.metadata import version

    kind = device.partition(":")[0]
    machine = torch.cuda.get_device_name(device) if kind == "cuda" else processor()
    return Environment(kind, machine, torch.get_num_threads(), DTYPE, batch, {name: version(name) for name in PACKAGES})


def processor() -> str:
    """The processor's model name and widest vector instructions."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return f"{name} {torch.backends.cpu.get_cpu_capability()}"


def _default_batch(model: Model, request: Request) -> int:
    largest = min(request.count, default_batch(request))
    return largest if model.device != "cpu" else min(CPU_BATCH, largest)


def _quantize_ahead(model: Model, texts: tuple[str, ...]) -> None:
    """Fill the store with the sensible ones of these options; workers that share it take turns."""
    wanted = [parse_option(text) for text in texts]
    if not _missing(model.store, wanted):
        return
    model.store.directory.parent.mkdir(parents=True, exist_ok=True)
    with writer_lock(model.store.directory, wait_s=BUILD_WAIT_S):
        model.store = Store.open(model.store.directory, model.structure, model.originals)
        for _ in build(model.store, _missing(model.store, wanted)):
            pass


def _missing(store: Store, wanted: list[Option]) -> list[Any]:
    bits = store.structure.precision_bits
    return [(layer, kept) for layer, options in requests(store, wanted)
            if (kept := tuple(o for o in options if o in sensible_options(layer, bits)))]


def _extractor(job: Job, model: Model) -> Extractor:
    return load_extractor(job.extractor, job.device) if job.extractor else find_extractor(model.directory, job.device)


def _protocol(model: Model, request: Request, split: str, extractor: Extractor) -> Protocol:
    structure = model.structure
    return Protocol(
        model=structure.model, identity=structure.identity, components=_components(model),
        precision_bits=structure.precision_bits, choices=tuple(layer.name for layer in structure.choices),
        prompts=request.prompts, labels=request.labels, seeds=request.seeds, negative=request.negative, split=split,
        steps=request.steps or 0, guidance=request.guidance or 0.0, scheduler=type(model.pipeline.scheduler).__name__,
        height=request.height or 0, width=request.width or 0, extractor=extractor.name,
    )


def _components(model: Model) -> str:
    """Hash over the rest of the pipeline: weights of its modules, settings of its scheduler.

    Weights count without their names, which change between versions of the libraries that hold them.
    """
    parts = {name: sorted(identity_of({"": weight.detach()}) for weight in module.parameters())
             for name, module in model.pipeline.components.items()
             if isinstance(module, torch.nn.Module) and module is not model.denoiser}
    settings = {k: v for k, v in dict(model.pipeline.scheduler.config).items() if not k.startswith("_")}
    text = json.dumps([sorted(parts.items()), settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


