"""`quantize`: build or resume a model's store, layer by layer, without opening the model where its files allow it."""

from __future__ import annotations

import argparse
import time
from typing import Any

from engine.cli.progress import shown
from engine.core.errors import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Model, store directory and the options wanted."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--store", metavar="DIR", required=True, help="directory of the store; resumed if it exists")
    parser.add_argument("--options", nargs="+", metavar="OPTION", default=None,
                        help="such as uaq-4 kmeans_c-3; default: every sensible option of every layer")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Build, and say how fast and in how much memory."""
    from engine.core.option import parse_option
    from engine.core.resident import peak_memory
    from engine.live.store import build, requests
    from engine.live.streaming import opened_store

    wanted = [parse_option(text) for text in args.options] if args.options else None
    if wanted and all(option.is_untouched for option in wanted):
        raise InputError(f"--options {wanted[0]} asks for full precision alone, which needs no store; name options "
                         f"that quantize, such as uaq-4, or leave --options out for every sensible one.")
    weights = built = 0
    with opened_store(args.model, args.store) as store:
        todo = requests(store, wanted)
        start, processor = time.perf_counter(), time.process_time()
        for record in shown(build(store, todo), len(todo), "quantizing", "layer"):
            weights += record.weights
            built += record.options
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
    peak = peak_memory()
    result = {"store": str(args.store), "layers": len(todo), "options_built": built, "weights": weights,
              "seconds": seconds, "processor_seconds": processor, "peak_bytes": peak,
              "weights_per_second": weights / seconds if weights else 0.0}
    return result, (f"{built} layer options in {seconds:.1f} s, {result['weights_per_second']:,.0f} weights/s, "
                    f"peak memory {peak / 1e6:,.0f} MB, store {args.store}")
