"""One loop for every model: time-boxed, resumable, averaged, logged."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from assets.make.checkpoint import load_checkpoint, save_checkpoint
from assets.make.optimizer import MuonAdam

WARM_UP = 0.02  # fraction of the time over which the learning rate rises
SAVE_S = 120
LOG_STEPS = 50
MAX_NORM = 1.0

Losses = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast; `minutes` is training time over all runs together."""

    folder: Path
    minutes: float
    rate: float
    seed: int = 0
    decay: float = 0.999  # of the running average of the weights


def rate_at(progress: float, plan: Plan) -> float:
    """A short rise, then a cosine down to zero at the end of the time."""
    if progress < WARM_UP:
        return plan.rate * (progress / WARM_UP + 0.02)
    return plan.rate * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def train(
    plan: Plan,
    module: nn.Module,
    average: dict[str, torch.Tensor],
    losses: Callable[[torch.Generator], Losses],
) -> Iterator[dict[str, float]]:
    """Train in place until the time is up, yielding a record every LOG_STEPS steps.

    `losses` draws its own batch and returns named terms, of which "loss" is minimised; `average`
    holds a copy of the state and follows it.
    """
    optimizer = MuonAdam(module)
    counters = load_checkpoint(plan.folder, module, average, optimizer)
    step, spent = int(counters.get("step", 0)), counters.get("seconds", 0.0)
    generator = torch.Generator().manual_seed(plan.seed + step)
    total, saved, last = plan.minutes * 60, spent, time.monotonic()
    while spent < total:
        rate = rate_at(spent / total, plan)
        terms = advance(module, optimizer, rate, lambda: losses(generator))
        follow(average, module, min(plan.decay, (1 + step) / (10 + step)))
        step += 1
        now = time.monotonic()
        spent, last = spent + now - last, now
        if step % LOG_STEPS == 0:
            values = {name: round(value.item(), 5) for name, value in terms.items()}
            yield {"step": step, "seconds": round(spent, 1), "rate": round(rate, 7), **values}
        if spent - saved > SAVE_S or spent >= total:
            saved = spent
            state = {"step": step, "seconds": spent}
            save_checkpoint(plan.folder, module, average, optimizer, state)


def advance(module: nn.Module, optimizer: MuonAdam, rate: float, losses: Callable[[], Losses]) -> Losses:
    """One step of the optimizer."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    with quick_attention(next(module.parameters()).device):
        terms = losses()
        terms["loss"].backward()
    nn.utils.clip_grad_norm_(module.parameters(), MAX_NORM)
    optimizer.step()
    return terms


def quick_attention(device: torch.device) -> contextlib.AbstractContextManager:
    """On CPU the fused attention's backward pass takes up to half of a step; plain products do not."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def copy_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """What the running average starts from."""
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def follow(average: dict[str, torch.Tensor], module: nn.Module, decay: float) -> None:
    """Move the average a little towards the weights of now."""
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)


def log_to(path: Path, records: Iterator[dict[str, float]], quiet: bool = False) -> None:
    """Append every record to a JSON-lines file and show it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for record in records:
            line = json.dumps(record)
            file.write(line + "\n")
            file.flush()
            if not quiet:
                print(line, flush=True)


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
