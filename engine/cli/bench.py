"""`bench`: run one comparison (or all) and print ratios with the machine's load."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from engine.cli.table import aligned

# name -> (module with run(args) -> dict, one-line help)
BENCHES: dict[str, tuple[str, str]] = {
    "apply": ("engine.bench.apply", "changing a recipe and generating, against plain full-precision generation"),
    "interact": ("engine.bench.interact", "a drag on the block graph in a real browser, to repainted numbers"),
    "lowbit": ("engine.bench.lowbit", "Linear layers on packed 4- and 8-bit kernels: resident memory, time per step"),
    "uniform": ("engine.bench.uniform", "every method at every width: stored bits, PSNR, feature distance, a picture"),
    "kmeans": ("engine.bench.kmeans", "1-D k-means against scikit-learn, time and squared error"),
    "dmq": ("engine.bench.dmq", "what each ingredient of DMQ adds at W4A8 and W4A6; --rounds is pictures per row"),
    "lengths": ("engine.bench.lengths", "shortened learning against the published lengths, on 3 layers and 1 block"),
}
LONG = ("dmq", "lengths")  # tens of minutes and more: only by name


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which bench, and on which model."""
    parser.add_argument("name", nargs="?", choices=sorted(BENCHES), help=f"without: all but {', '.join(LONG)}")
    parser.add_argument("--model", default="emoji-unet", help="model to measure on (default: emoji-unet)")
    parser.add_argument("--rounds", type=int, default=15, help="how often each side is taken (default: 15)")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """One record per bench."""
    from engine.bench.machine import machine

    results: dict[str, Any] = {}
    for name in [args.name] if args.name else (name for name in BENCHES if name not in LONG):
        results[name] = importlib.import_module(BENCHES[name][0]).run(model=args.model, rounds=args.rounds)
    record = {"machine": machine(), **(results[args.name] if args.name else {"benches": results})}
    lines = [f"machine: {record['machine']}"]
    for name, result in results.items():
        lines += [f"{name}: {BENCHES[name][1]}"]
        for key, value in result.items():
            table = isinstance(value, list) and value and isinstance(value[0], dict)
            lines.append(aligned(list(value[0]), [list(row.values()) for row in value]) if table
                         else f"  {key}: {_figure(value)}")
    return record, "\n".join(lines)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
