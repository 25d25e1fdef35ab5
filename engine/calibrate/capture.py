"""What the denoiser is called with along real sampling trajectories of calibration prompts, to be replayed at will.

One trajectory per picture, every step of it kept, guidance halves included; nothing is sampled again per step. Pictures
come from the calibration part of the prompts only. Parts (one per batch of pictures) go to a folder, where there is
one, and an interrupted capture continues with the next part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.calibrate.files import Folder, Packer, unpack
from engine.core.errors import InputError, StoreError
from engine.live.activations import argument_reader
from engine.live.arithmetic import exact_arithmetic
from engine.live.cancel import Cancel, check_cancel
from engine.live.generate import Step, default_batch, generate
from engine.live.model import Model
from engine.live.request import Request, checked
from engine.models.inputs import LATENT_NAMES, TIME_NAMES
from engine.providers.progress import Progress
from engine.providers.prompts import request_for, split_of

PART = "calibration"
IMAGES = 64
MAX_CALLS_PER_STEP = 4


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """Which trajectories.

    Attributes:
        images: pictures, on the calibration prompts.
        first: index of the first, so that other calibration seeds see other pictures.
        steps, guidance: None = the model's default.
        scheduler: "" = the model's own.
        batch: pictures made at once; None = as generation would.

    Raises:
        InputError: no pictures.
    """

    images: int = IMAGES
    first: int = 0
    steps: int | None = None
    guidance: float | None = None
    scheduler: str = ""
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.images < 1 or self.first < 0 or (self.batch is not None and self.batch < 1):
            raise InputError(f"A calibration needs at least one picture and batches of at least one, got "
                             f"{self.images} pictures, first {self.first}, batch {self.batch}.")


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """One call of the denoiser.

    Attributes:
        step: index of the sampling step.
        timestep: the denoiser's timestep argument (of the first sample).
        images: indices of the pictures, in the order of the rows.
        rows: rows of the batch; a multiple of the pictures.
        conditional: rows that belong to the prompts, not to the unconditional half of guidance; empty in a call that
            is wholly unconditional.
        args, kwargs: of `denoiser.forward`, on the model's device.
    """

    step: int
    timestep: float
    images: tuple[int, ...]
    rows: int
    conditional: range
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Captured:
    """Trajectories of one model.

    Attributes:
        model: its identity.
        timesteps: per sampling step, what the denoiser was called with.
        images: pictures.
        prompts: distinct prompts (or labels) among them; 0 where the model takes none.
        about: everything that identifies the trajectories.
        folder, parts: where the calls lie.
    """

    model: str
    timesteps: tuple[float, ...]
    images: int
    prompts: int
    about: dict[str, str]
    folder: Folder
    parts: tuple[str, ...]

    def calls(self, steps: Sequence[int] | None = None, device: str = "cpu") -> Iterator[Call]:
        """The calls of these steps (None = all): part by part, within a part in order of execution.

        Raises:
            StoreError: a part is damaged.
        """
        wanted = None if steps is None else set(steps)
        for part in self.parts:
            tensors, about = self.folder.load(part)
            try:
                rows = [row for row in about["calls"] if wanted is None or row["step"] in wanted]
                images = tuple(about["images"])
            except (KeyError, TypeError):
                raise StoreError(f"The captured part {part} is damaged; remove its file and run again.") from None
            for row in rows:
                args, kwargs = unpack(row["arguments"], tensors, torch.device(device))
                yield Call(row["step"], row["timestep"], images, row["rows"], range(*row["conditional"]), args, kwargs)


def capture(model: Model, plan: CapturePlan | None = None, *, directory: Path | None = None,
            cancel: Cancel | None = None) -> Iterator[Progress | Captured]:
    """Generate the plan's pictures with the recipe that is applied, keeping every call; ends with `Captured`.

    Args:
        model: usually in full precision.
        plan: see `CapturePlan`.
        directory: where parts are kept; None keeps them in memory.
        cancel: asked at every denoising step; whole parts stay.

    Raises:
        StoreError: the directory was begun with another model or plan.
        InputError: the plan is out of range.
        Cancelled: the caller asked for it.
    """
    plan = plan or CapturePlan()
    request = calibration_request(model, plan)
    about = about_capture(model, plan, request)
    folder = Folder(directory, {"model": model.structure.identity, **about})
    halves = _Halves(model, request)
    size = plan.batch or default_batch(request)
    starts = range(0, request.count, size)
    parts = tuple(f"images-{start:05d}" for start in starts)
    begun, made = time.perf_counter(), 0
    for number, (start, name) in enumerate(zip(starts, parts, strict=True)):
        if folder.has(name):
            continue
        images = range(start, min(start + size, request.count))
        recorder = _Recorder(model)
        with recorder:
            for event in generate(model, _part(request, images), cancel=cancel, batch=size):
                if isinstance(event, Step):
                    recorder.steps = event.of
                    share = made + event.index / event.of
                    left = (time.perf_counter() - begun) / share * (len(parts) - number + made - share)
                    yield Progress("trajectories", number * event.of + event.index, len(parts) * event.of, left)
        calls = recorder.calls(len(images), halves)
        folder.save(name, recorder.packer.tensors, {"images": list(images), "calls": calls})
        made += 1
    first = folder.load(parts[0])[1]["calls"]
    timesteps = {row["step"]: row["timestep"] for row in reversed(first)}
    yield Captured(model.structure.identity, tuple(timesteps[s] for s in sorted(timesteps)), request.count,
                   distinct_prompts(request, model), about, folder, parts)


def replay(model: Model, captured: Captured, steps: Sequence[int] | None = None, *,
           cancel: Cancel | None = None) -> Iterator[Call]:
    """Run the denoiser on captured calls; yields each call after it ran. Hooks are the caller's.

    Raises:
        StoreError: the trajectories are of another model, or damaged.
        Cancelled: the caller asked for it.
    """
    check_captured(captured, model)
    for call in captured.calls(steps, model.device):
        check_cancel(cancel)
        run_call(model, call)
        yield call


def run_call(model: Model, call: Call) -> Any:
    """The denoiser on one captured call, as generation runs it. Returns what it returns."""
    with torch.no_grad(), exact_arithmetic():
        return model.denoiser(*call.args, **call.kwargs)


def check_captured(captured: Captured, model: Model) -> None:
    """Refuse trajectories of another model.

    Raises:
        StoreError: they are.
    """
    if captured.model != model.structure.identity:
        raise StoreError(f"The captured trajectories are of another model (identity {captured.model[:12]}); "
                         f"{model.structure.model} is {model.structure.identity[:12]}. Capture them for this one.")


def calibration_request(model: Model, plan: CapturePlan) -> Request:
    """The checked request of a plan's pictures; errors as `engine.live.request.checked`."""
    wanted = request_for(split_of(model), PART, plan.images, first=plan.first, steps=plan.steps,
                         guidance=plan.guidance, scheduler=plan.scheduler)
    return checked(wanted, model.limits)


def about_capture(model: Model, plan: CapturePlan, request: Request) -> dict[str, str]:
    """Everything that determines the trajectories, but for the model."""
    asked = {k: v for k, v in asdict(plan).items() if k not in ("steps", "guidance", "scheduler", "batch")}
    return {
        **{k: str(v) for k, v in asked.items()}, "batch": str(plan.batch or default_batch(request)), "part": PART,
        "prompts": split_of(model).hash, "steps": str(request.steps), "guidance": str(request.guidance),
        "scheduler": request.scheduler or type(model.pipeline.scheduler).__name__, "height": str(request.height),
        "width": str(request.width), "recipe": model.recipe.hash, "device": model.device.split(":")[0],
        "dtype": model.dtype, "threads": str(torch.get_num_threads()), "torch": torch.__version__,
    }


def distinct_prompts(request: Request, model: Model) -> int:
    """How many different prompts or labels a request has; 0 where the model takes none."""
    if model.limits.conditioning == "none":
        return 0
    return len(set(request.labels if model.limits.conditioning == "class" else request.prompts))


def _part(request: Request, images: range) -> Request:
    rows = slice(images.start, images.stop)
    return replace(request, prompts=request.prompts[rows], labels=request.labels[rows], seeds=request.seeds[rows])


class _Halves:
    """Which rows of each call of a step belong to the prompts, where a batch of one picture, or of one prompt for all,
    does not tell: as in an earlier batch, else tried once on two pictures of different prompts."""

    def __init__(self, model: Model, request: Request) -> None:
        self._model, self._request = model, request
        self._found: list[range | None] | None = None  # as halves of two pictures

    def take(self, halves: list[range | None], images: int) -> None:
        """What a batch of so many pictures tells."""
        self._found = [h and range(h.start // images * 2, h.stop // images * 2) for h in halves]

    def of(self, call: int, images: int) -> range | None:
        """The conditional rows of a step's call number `call` with so many pictures; None where nothing tells."""
        if self._found is None:
            self._found = self._tried()
        half = self._found[call] if call < len(self._found) else None
        return half and range(half.start // 2 * images, half.stop // 2 * images)

    def _tried(self) -> list[range | None]:
        labels = (0, 1) if self._model.limits.labels > 1 else self._request.labels[:1] * 2
        prompts = ("a circle", "a square") if self._model.limits.conditioning == "text" else ("", "")
        two = replace(self._request, prompts=prompts, labels=labels, seeds=(0, 1))
        recorder = _Recorder(self._model)
        with recorder:
            for _ in generate(self._model, two, batch=2):
                break  # after one step
        return recorder.halves(2)


class _Recorder:
    """Notes every call of a denoiser while it is entered."""

    def __init__(self, model: Model) -> None:
        self.packer = Packer()
        self.steps = 0
        self._denoiser = model.denoiser
        self._time = argument_reader(model.denoiser, TIME_NAMES)
        self._latent = argument_reader(model.denoiser, LATENT_NAMES)
        self._rows: list[dict[str, Any]] = []
        self._conditions: list[list[Tensor]] = []
        self._handle: Any = None

    def __enter__(self) -> _Recorder:
        self._handle = self._denoiser.register_forward_pre_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _note(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        time_, latent = self._time(args, kwargs), self._latent(args, kwargs)
        timestep = float(time_.reshape(-1)[0]) if isinstance(time_, Tensor) else float(time_)
        rows = len(latent)
        if len(self._conditions) < MAX_CALLS_PER_STEP:
            self._conditions.append([t for t in _tensors([args, kwargs]) if t is not latent and t is not time_
                                     and t.ndim and len(t) == rows])
        self._rows.append({"timestep": timestep, "rows": rows, "arguments": self.packer.pack((args, kwargs))})

    def halves(self, images: int) -> list[range | None]:
        """Of the first step's calls, the rows whose conditions differ between pictures; None where none do."""
        return [_conditional(tensors, row["rows"], images)
                for tensors, row in zip(self._conditions, self._rows, strict=False)]

    def calls(self, images: int, tried: _Halves) -> list[dict[str, Any]]:
        """The calls with their step and their conditional rows.

        Raises:
            StoreError: the denoiser is not called equally often in every step.
        """
        if not self.steps or len(self._rows) % self.steps or len(self._rows) // self.steps > MAX_CALLS_PER_STEP:
            raise StoreError(f"The denoiser was called {len(self._rows)} times in {self.steps} steps; trajectories are "
                             f"captured where every step calls it equally often. Choose another scheduler.")
        per_step = len(self._rows) // self.steps
        halves = self.halves(images)[:per_step]
        if any(half is not None for half in halves):
            tried.take(halves, images)
        elif per_step > 1 or self._rows[0]["rows"] > images:
            halves = [tried.of(k, images) for k in range(per_step)]
        if per_step > 1:  # guidance by a second call: the one whose conditions differ between pictures, else the first
            chosen = next((k for k, half in enumerate(halves) if half is not None), 0)
            halves = [range(self._rows[k]["rows"]) if k == chosen else range(0) for k in range(per_step)]
        found = []
        for number, row in enumerate(self._rows):
            half = halves[number % per_step]
            kept = half if half is not None else range(row["rows"] - images, row["rows"])
            found.append({**row, "step": number // per_step, "conditional": [kept.start, kept.stop]})
        return found


def _conditional(tensors: list[Tensor], rows: int, images: int) -> range | None:
    """The rows whose conditions differ between pictures: those of an unconditional half are all the same.

    None where nothing tells them apart (one picture, one prompt, no conditions).
    """
    for start in range(rows - images, -1, -images):
        part = [t[start:start + images] for t in tensors]
        if any(bool((t != t[:1]).any()) for t in part):
            return range(start, start + images)
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
