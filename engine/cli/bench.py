"""`bench`: run one comparison (or all) and print ratios with the machine's load."""

from __future__ import annotations

import argparse
import importlib
import inspect
from typing import Any

from engine.cli.progress import progress_flag, told
from engine.cli.table import aligned

# name -> (module with run(args) -> dict, one-line help)
BENCHES: dict[str, tuple[str, str]] = {
    "apply": ("engine.bench.apply", "changing a recipe and generating, against plain full-precision generation"),
    "interact": ("engine.bench.interact", "a drag on the block graph in a real browser, to repainted numbers"),
    "lowbit": ("engine.bench.lowbit", "Linear layers on packed 4- and 8-bit kernels: resident memory, time per step"),
    "uniform": ("engine.bench.uniform", "every method at every width: stored bits, PSNR, feature distance, a picture"),
    "kmeans": ("engine.bench.kmeans", "1-D k-means against scikit-learn, time and squared error"),
    "families": ("engine.bench.families", "every covered family from a directory to a reloaded export"),
    "exports": ("engine.bench.exports", "one export of each kind, reloaded in fresh processes: difference, bytes"),
    "inspect": ("engine.bench.inspect", "every catalogue row: facts, time over the bare import, memory, second call"),
    "store": ("engine.bench.store", "a whole store at full size: weights per second, peak memory, bytes on disk"),
    "switch": ("engine.bench.switch", "one slider and all layers at full size: seconds, peak memory"),
    "dmq": ("engine.bench.dmq", "what each ingredient of DMQ adds at W4A8 and W4A6; --rounds is pictures per row"),
    "mpq": ("engine.bench.mpq", "MPQ-Diff's recipes against controls at equal bits; --rounds is pictures per recipe"),
    "composition": ("engine.bench.composition", "allocation x weight method x activation scheme at equal bytes; "
                    "--rounds is pictures per row"),
    "acceptance": ("engine.bench.acceptance", "MPQ-Diff's importance against measured damage, and over three "
                   "calibrations"),
    "lengths": ("engine.bench.lengths", "shortened learning against the published lengths, on 3 layers and 1 block"),
}
# many minutes: only by name
LONG = ("dmq", "mpq", "composition", "lengths", "acceptance", "store", "switch", "families", "exports", "inspect")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which bench, and on which model."""
    parser.add_argument("name", nargs="?", choices=sorted(BENCHES), help=f"without: all but {', '.join(LONG)}")
    parser.add_argument("--model", help="model to measure on (default: emoji-unet; sdxl where full size is measured)")
    parser.add_argument("--rounds", type=int, help="how often each side is taken (default: the bench's own)")
    parser.add_argument("--scratch", metavar="DIR", help="where full-size benches keep random checkpoints "
                        "(default: a folder for temporary files)")
    parser.add_argument("--into", metavar="PAGE.md", help="keep the figures as a section of a Markdown page")
    progress_flag(parser)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """One record per bench."""
    from engine.bench.machine import machine
    from engine.bench.page import keep

    results: dict[str, Any] = {}
    before = machine()
    for name in [args.name] if args.name else (name for name in BENCHES if name not in LONG):
        results[name] = _measured(name, args)
        if args.into:
            title = f"{name} {args.model}" if args.model else name
            keep(args.into, title, _command(name, args), _words(before), results[name])
    record = {"machine": before, **(results[args.name] if args.name else {"benches": results})}
    lines = [f"machine: {record['machine']}"]
    for name, result in results.items():
        lines += [f"{name}: {BENCHES[name][1]}"]
        for key, value in result.items():
            table = isinstance(value, list) and value and isinstance(value[0], dict)
            lines.append(aligned(list(value[0]), [list(row.values()) for row in value]) if table
                         else f"  {key}: {_figure(value)}")
    return record, "\n".join(lines)


def _measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run one bench with what it takes of model, rounds and scratch folder; the rest is its own default."""
    measure = importlib.import_module(BENCHES[name][0]).run
    taken = inspect.signature(measure).parameters
    given = {key: getattr(args, key) for key in ("model", "rounds", "scratch") if key in taken}
    if "progress" in taken:
        given["progress"] = lambda done, total: told(args.progress, "step", done=done, total=total)
    found: dict[str, Any] = measure(**{key: value for key, value in given.items() if value is not None})
    return found


def _command(name: str, args: argparse.Namespace) -> str:
    words = [f"python -m engine bench {name}", f"--model {args.model}" if args.model else "",
             f"--rounds {args.rounds}" if args.rounds else ""]
    return " ".join(filter(None, words))


def _words(machine: dict[str, Any]) -> str:
    return f"{machine['cores']} cores, load before {machine['load']}, {machine['platform']}"


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
