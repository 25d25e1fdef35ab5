"""What to generate, checked against what a model can do; standard library only, imported before torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.core.errors import InputError
from engine.core.seeds import MAX_SEED

MAX_STEPS = 1000
MAX_GUIDANCE = 50.0
MAX_IMAGES = 4096
MAX_SIDE = 4096
# Tokenizers cut long prompts (77 to 300 tokens, under 2,000 characters); beyond this it is no prompt any more.
MAX_PROMPT_CHARACTERS = 5000


@dataclass(frozen=True, slots=True)
class Request:
    """Images to generate: image i is made from prompt i (or label i) and seed i.

    A single prompt, label or seed stands for all images. What is None is the model's default.

    Attributes:
        prompts: one text per image; "" is unconditional.
        labels: one class number per image, for class-conditional models.
        negative: text to steer away from, for all images.
        seeds: one per image, 0 to 2^32 - 1.
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        scheduler: name of a scheduler the model's own is compatible with; "" is the model's own.
        height, width: pixels.
    """

    prompts: tuple[str, ...] = ("",)
    labels: tuple[int, ...] = ()
    negative: str = ""
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    guidance: float | None = None
    scheduler: str = ""
    height: int | None = None
    width: int | None = None

    @property
    def count(self) -> int:
        """How many images it asks for."""
        return max(len(self.prompts), len(self.labels), len(self.seeds))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model takes, and its defaults.

    Attributes:
        conditioning: "text", "class" or "none".
        steps, guidance, height, width: defaults.
        max_steps: training steps of the scheduler.
        labels: how many classes there are (0 without).
        schedulers: names that may be asked for.
        free_size: whether other sizes than the default can be made.
        multiple: what height and width must be divisible by.
    """

    conditioning: str
    steps: int
    guidance: float
    height: int
    width: int
    max_steps: int = MAX_STEPS
    labels: int = 0
    schedulers: tuple[str, ...] = ()
    free_size: bool = True
    multiple: int = 8


def crossed(prompts: Sequence[str], seeds: Sequence[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Every prompt with every seed, prompt by prompt, as the two columns a `Request` takes."""
    return tuple(p for p in prompts for _ in seeds), tuple(s for _ in prompts for s in seeds)


def checked(request: Request, limits: Limits) -> Request:
    """The request with defaults filled in and one prompt (or label) and seed per image.

    Raises:
        InputError: anything out of range; one sentence that says what came and what was expected.
    """
    count = request.count
    if not 1 <= count <= MAX_IMAGES:
        raise InputError(f"{count} images were asked for; ask for 1 to {MAX_IMAGES} at a time.")
    return replace(
        request,
        prompts=_column("prompts", _prompts(request, limits), count),
        labels=_column("labels", _labels(request, limits), count),
        seeds=_column("seeds", tuple(_integer("A seed", s, 0, MAX_SEED) for s in request.seeds), count),
        negative=_text("The negative prompt", request.negative),
        steps=_integer("The number of steps", _or(request.steps, limits.steps), 1, min(MAX_STEPS, limits.max_steps)),
        guidance=_guidance(_or(request.guidance, limits.guidance)),
        scheduler=_scheduler(request.scheduler, limits),
        height=_side("height", request.height, limits.height, limits),
        width=_side("width", request.width, limits.width, limits),
    )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _column(name: str, values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(values) == 1:
        return values * count
    if values and len(values) != count:
        raise InputError(f"{len(values)} {name} came for {count} images; give one, or one per image.")
    return values


def _prompts(request: Request, limits: Limits) -> tuple[str, ...]:
    if limits.conditioning != "text":
        return ("",)
    return tuple(_text("A prompt", prompt) for prompt in request.prompts) or ("",)


def _text(name: str, text: Any) -> str:
    if not isinstance(text, str):
        raise InputError(f"{name} must be text, got {type(text).__name__}.")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise InputError(f"{name} has {len(text):,} characters; at most {MAX_PROMPT_CHARACTERS:,} are taken, and the "
                         f"model reads only the first few hundred.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} holds half a character (a lone surrogate); paste it again.") from None
    return text


def _labels(request: Request, limits: Limits) -> tuple[int, ...]:
    if limits.conditioning != "class":
        return ()
    return tuple(_integer("A class label", n, 0, limits.labels - 1) for n in request.labels) or (0,)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}, got {_short(value)}.")
    return value


def _guidance(value: Any) -> float:
    # NaN is in no range
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_GUIDANCE:
        raise InputError(f"Guidance must be a number from 0 to {MAX_GUIDANCE:.0f}, got {_short(value)}.")
    return float(value)


def _scheduler(name: str, limits: Limits) -> str:
    if name and name not in limits.schedulers:
        known = ", ".join(limits.schedulers) or "none but its own"
        raise InputError(f"This model has no scheduler called {_short(name)}; choose one of: {known}.")
    return name


def _side(name: str, value: Any, default: int, limits: Limits) -> int:
    if value is None or value == default:
        return default
    if not limits.free_size:
        raise InputError(f"This model makes pictures of {limits.width} x {limits.height} pixels only; "
                         f"{name} {_short(value)} cannot be had.")
    if not isinstance(value, int) or isinstance(value, bool) or value % limits.multiple \
            or not limits.multiple <= value <= MAX_SIDE:
        raise InputError(f"The {name} must be a multiple of {limits.multiple} from {limits.multiple} to {MAX_SIDE} "
                         f"pixels, got {_short(value)}.")
    return value


def _short(value: Any) -> str:
    return repr(value)[:40]
