"""What a trial costs: seconds, overhead beyond generating, and what a second worker brings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from engine.evidence.studied import Studied
from engine.providers.progress import Progress
from engine.study.job import Job
from engine.study.runner import Plan, run_study

TRIALS, IMAGES = 6, 16
TINY_S = 1e-9


def cost_of(studied: Studied) -> dict[str, float]:
    """Seconds per trial and the share beyond generating, over the trials of the study: means, and medians, which a
    machine that stood still for a while does not distort."""
    spent, generating = float(studied.seconds.sum()), float(studied.generating.sum())
    share = 1 - studied.generating / np.maximum(studied.seconds, TINY_S)
    return {"seconds_per_trial": spent / len(studied.seconds), "overhead": 1 - generating / spent if spent else 0.0,
            "median_seconds": float(np.median(studied.seconds)), "median_overhead": float(np.median(share))}


def workers(source: str, trials: int = TRIALS, images: int = IMAGES,
            counts: tuple[int, ...] = (1, 2)) -> Iterator[Progress | dict[str, Any]]:
    """Time the same trials with one worker and with two (one thread each), loading left out.

    Yields progress, then {"trials", "images", "workers": {count: seconds}, "ratio": one over two}.
    """
    seconds: dict[int, float] = {}
    for number, count in enumerate(counts):
        with TemporaryDirectory() as folder:
            plan = Plan(Job(source, images=images, threads=1), trials, workers=count)
            begin = time.perf_counter()
            for record in run_study(Path(folder) / "timed.sqlite", plan):
                if record.event == "ready":
                    begin = time.perf_counter()
            seconds[count] = time.perf_counter() - begin
        yield Progress(f"{count} workers", number + 1, len(counts))
    yield {"trials": trials, "images": images, "workers": {str(k): v for k, v in seconds.items()},
           "ratio": seconds[counts[0]] / seconds[counts[-1]]}
