"""`--kernels`: whether a recipe's nf4, fp4 and int8 layers are simulated or executed packed, and what that took."""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

DENSE, PACKED = "dense", "packed"


def kernels_argument(parser: argparse.ArgumentParser) -> None:
    """`--kernels`, for verbs that draw under a recipe."""
    parser.add_argument("--kernels", choices=(DENSE, PACKED), default=DENSE,
                        help="dense: every layer computes with its dequantized weights; packed: Linear layers at nf4, "
                             "fp4 and int8 execute on bitsandbytes' CPU kernels (default: dense)")


def prepare_kernels(model: Any, recipe: Any, args: argparse.Namespace) -> None:
    """Refuse what packed kernels cannot execute, if they are asked for, before anything is drawn.

    The layers are swapped once and back: missing ones are quantized, and what that loads and compiles is then in memory
    on both sides, whose resident memory differs by the weights. Errors as `engine.live.kernels.executing`.
    """
    if args.kernels == PACKED:
        from engine.live.kernels import executing

        with executing(model, recipe, transfer=args.transfer):
            pass
        model.store.release()
        model.originals.release()


def put(model: Any, recipe: Any, args: argparse.Namespace) -> AbstractContextManager[Any]:
    """The model under a recipe within the block, as `--kernels` says; gives the `Execution`, None where it is dense."""
    if args.kernels == PACKED:
        from engine.live.kernels import executing

        return executing(model, recipe, transfer=args.transfer)
    return _simulated(model, recipe, args.transfer)


@contextmanager
def _simulated(model: Any, recipe: Any, transfer: bool) -> Iterator[None]:
    from engine.live.apply import apply_all

    apply_all(model, recipe, transfer=transfer)  # and left so: nothing is drawn after it
    yield


def gauged(events: Iterable[Any], figures: dict[str, float]) -> Iterator[Any]:
    """Pass a generation's events through; at their end note `seconds_per_step` and `resident_bytes`.

    A step's time is the median over all but the first, which holds what comes before it (text encoders), if there is
    more than one. Resident is the whole process after the last picture, pages of mapped files included.
    """
    from engine.core.resident import resident_bytes
    from engine.live.generate import Step

    times = [time.perf_counter()]
    for event in events:
        if isinstance(event, Step):
            times.append(time.perf_counter())
        yield event
    took = [after - before for before, after in itertools.pairwise(times)]
    figures.update(seconds_per_step=statistics.median(took[1:] or took), resident_bytes=resident_bytes())


def told_kernels(result: dict[str, Any], text: str, execution: Any, full: Mapping[str, float],
                 packed: Mapping[str, float]) -> tuple[dict[str, Any], str]:
    """A verb's record and words with what was executed, simulated and measured; unchanged where all was dense.

    Args:
        result, text: what the verb says.
        execution: what `put` gave.
        full, packed: figures of both sides; see `gauged`.
    """
    if execution is None:
        return result, text
    counts = {"executed": len(execution.layers), "simulated": len(execution.simulated)}
    found = {**counts, "packed_bytes": execution.packed_bytes, "dense_bytes": execution.dense_bytes,
             "full": dict(full), "packed": dict(packed)}
    words = (f"{counts['executed']} layers executed on packed weights ({execution.packed_bytes / 1e6:,.2f} MB, in full "
             f"{execution.dense_bytes / 1e6:,.2f} MB), {counts['simulated']} simulated; full precision | packed: "
             + "; ".join(f"{side['seconds_per_step']:.3g} s per step, {side['resident_bytes'] / 1e6:,.0f} MB resident"
                         for side in (full, packed)))
    return {**result, "kernels": found}, f"{text}\n{words}"
