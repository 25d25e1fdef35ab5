"""Compare the ingredients of DMQ on the demo models and write the table, its rows and their recipes.

python -m assets.make.dmq_table [--models emoji-unet emoji-dit] [--images 256] [--out assets/evidence/dmq]

Run it again to go on where it stopped; `--iterations 20 --rounding-iterations 20 --images 8` proves the chain quickly.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from engine.bench.dmq import PRESETS, TablePlan, TableRow, lines, table
from engine.bench.machine import machine
from engine.core.files import write_atomic, write_json
from engine.live.model import open_model


def markdown(model: str, rows: list[dict]) -> str:
    """The table for people."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n"
    body = "".join(f"| {' | '.join(str(row.get(name, '')) for name in names)} |\n" for row in rows)
    return f"## {model}\n\n{head}{body}"


def made(name: str, plan: TablePlan, out: Path, directory: Path | None) -> list[TableRow]:
    """All rows of one model, printed as they come."""
    model = open_model(name)
    rows = []
    for event in table(model, plan, partial=out / f"{name}.jsonl", directory=directory, recipes=out / name):
        if isinstance(event, TableRow):
            rows.append(event)
            print(lines(rows)[-1], flush=True)
        elif event.index == event.of:
            print(f"{name} {event.doing}", file=sys.stderr, flush=True)
    model.close()
    return rows


def main() -> None:
    """Parse, calibrate, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["emoji-unet", "emoji-dit"])
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--images", type=int, default=256, help="final pictures per row")
    parser.add_argument("--exclude", default="dmq", help="what stays in full precision: none, first-last, dmq")
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--rounding-iterations", type=int, default=1500)
    parser.add_argument("--calibration-images", type=int, default=64)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--directory", type=Path, help="where calibration is kept (default: the user's cache)")
    parser.add_argument("--out", type=Path, default=Path("assets/evidence/dmq"))
    args = parser.parse_args()
    plan = TablePlan(tuple(args.presets), args.images, args.exclude, args.iterations, args.rounding_iterations,
                     args.calibration_images, args.rows, steps=args.steps)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.models:
        rows = made(name, plan, args.out, args.directory)
        table_rows = lines(rows)
        write_json(args.out / f"{name}.json", {"model": name, "plan": asdict(plan), "machine": machine(),
                                               "rows": table_rows})
        write_atomic(args.out / f"{name}.md", markdown(name, table_rows))
        print(markdown(name, table_rows))


if __name__ == "__main__":
    print(json.dumps(machine()), file=sys.stderr)
    main()
