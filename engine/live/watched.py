"""A pipeline watched from outside while it runs: cancel, step progress and latents, for every pipeline alike.

Constraints: pipelines differ in callbacks (many have none), in how often they call the denoiser per step (guidance
as a doubled batch or a second call) and in whether they hand generators to the scheduler. What all share is that
the denoiser is a module and that `scheduler.step` is called once per timestep. Every run has a scheduler of its
own, so a cancelled run leaves no trace.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from engine.core.errors import InputError
from engine.live.cancel import Cancel, check_cancel
from engine.models.quiet import quiet

# Settings a model was trained with: a scheduler that does not know them would sample another process.
SCHEDULE_SETTINGS = {"beta_schedule", "prediction_type", "trained_betas", "shift"}


@dataclass
class Watch:
    """What to do while a pipeline runs, and what was seen.

    Attributes:
        generators: one per image; handed to schedulers that draw noise and were given none.
        cancel: asked before every forward pass of the denoiser and after every step.
        on_step: called with (steps done, steps in all).
        keep_latents: whether to record them.
        latents: per step, [images, ...] on the model's device.
    """

    generators: Sequence[torch.Generator]
    cancel: Cancel | None
    on_step: Callable[[int, int], None]
    keep_latents: bool = False
    latents: list[Tensor] = field(default_factory=list)
    steps: int = 0


@contextlib.contextmanager
def watched(pipeline: Any, denoiser: torch.nn.Module, scheduler: str, watch: Watch) -> Iterator[None]:
    """Within the block the pipeline has a scheduler of its own and is watched; afterwards it is as before.

    Args:
        pipeline: with a `scheduler` attribute.
        denoiser: its denoiser.
        scheduler: name of a compatible scheduler; "" is the pipeline's own.
        watch: see `Watch`.
    """
    own = pipeline.scheduler
    hook = denoiser.register_forward_pre_hook(lambda *_: check_cancel(watch.cancel))
    try:
        pipeline.scheduler = fresh_scheduler(own, scheduler)
        _watch_steps(pipeline.scheduler, watch)
        yield
    finally:
        hook.remove()
        pipeline.scheduler = own


def fresh_scheduler(own: Any, name: str = "") -> Any:
    """A new scheduler with the pipeline's scheduler settings; of another compatible class if one is named.

    Raises:
        InputError: there is no such scheduler, or it cannot work with this model's settings.
    """
    if name in ("", type(own).__name__):
        # not from_config: it resets what a pipeline changed in the config after the scheduler was made
        return copy.deepcopy(own)
    cls = {c.__name__: c for c in compatible(own)}.get(name)
    if cls is None:
        raise InputError(f"This model has no scheduler called {name[:40]!r}.")
    try:
        return cls.from_config(own.config)
    except (ValueError, NotImplementedError, ImportError, TypeError) as failure:
        raise InputError(f"{name} does not work with this model ({str(failure)[:120]}); choose another.") from None


def compatible(scheduler: Any) -> list[type]:
    """Scheduler classes the library calls compatible with this one, its own first."""
    others = scheduler.compatibles if getattr(scheduler, "has_compatibles", False) else []
    return list(dict.fromkeys([type(scheduler), *sorted(others, key=lambda c: c.__name__)]))


def usable_schedulers(own: Any) -> tuple[str, ...]:
    """Names of the compatible schedulers that keep this one's noise schedule and work with what is installed."""
    kept = SCHEDULE_SETTINGS & _settings(type(own))
    names = []
    with quiet():
        for cls in compatible(own):
            if cls is type(own) or kept <= _settings(cls):
                with contextlib.suppress(InputError):
                    fresh_scheduler(own, cls.__name__)
                    names.append(cls.__name__)
    return tuple(names)


def _settings(cls: type) -> set[str]:
    return set(inspect.signature(cls).parameters)


def _watch_steps(scheduler: Any, watch: Watch) -> None:
    step = scheduler.step
    draws = "generator" in inspect.signature(step).parameters
    images = len(watch.generators)

    # wraps: pipelines look at the signature of `step` to find out what it takes
    @functools.wraps(step)
    def watched_step(model_output: Any, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        if draws and kwargs.get("generator") is None:
            # a doubled guidance batch repeats the images, so their generators are repeated in the same order
            kwargs["generator"] = [*watch.generators] * max(1, len(sample) // images)
        result = step(model_output, timestep, sample, *args, **kwargs)
        if watch.keep_latents:
            watch.latents.append(result[0][:images].detach().clone())
        watch.steps += 1
        watch.on_step(watch.steps, len(scheduler.timesteps))
        check_cancel(watch.cancel)
        return result

    scheduler.step = watched_step
