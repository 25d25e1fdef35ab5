"""`evaluate`: a recipe's pictures against full precision on the same prompts and seeds, and against a reference set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from engine.cli.export import recipe_named
from engine.cli.kernels import gauged, kernels_argument, prepare_kernels, put, told_kernels
from engine.cli.opening import opened, placement_arguments
from engine.cli.progress import followed, remark
from engine.cli.table import aligned
from engine.core.errors import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Model, recipe, and on how many pictures."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--recipe", metavar="FILE", required=True, help="recipe JSON, or a preset such as uaq-4")
    parser.add_argument("--transfer", action="store_true", help="take a recipe made for another model by layer name")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--prompts", metavar="FILE", help="text file, one prompt per line (default: the final split)")
    parser.add_argument("--part", default="final", choices=["study", "calibration", "final"])
    parser.add_argument("--reference", metavar="DIR", help="folder of real pictures")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--floor", action="store_true", help="measure full precision against itself on other seeds")
    kernels_argument(parser)
    placement_arguments(parser, measures=True)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Generate twice, measure, and print every metric with n and interval."""
    from dataclasses import replace

    from engine.core.recipe import bits_per_weight
    from engine.live.apply import apply
    from engine.live.generate import Picture, generate
    from engine.live.schedules import other_scheduler
    from engine.metrics.compare import Reference, compare, distances, floor
    from engine.metrics.features import find_extractor
    from engine.providers.reference import reference_pictures

    model = opened(args)
    recipe = recipe_named(model.structure, args.recipe, args.transfer)
    request = _request(model, args, first=0)
    apply(model, recipe)  # not run through: it refuses what is missing before anything is drawn
    prepare_kernels(model, recipe, args)
    sides: dict[str, dict[str, float]] = {}

    def pictures(wanted: Any, title: str) -> list[Any]:
        events = gauged(followed(generate(model, wanted, record_latents=True, exact=True), title),
                        sides.setdefault(title, {}))
        return [e for e in events if isinstance(e, Picture)]

    extractor = find_extractor(model.directory, args.device)
    full = Reference(pictures(request, "full precision"), extractor)
    # the same prompts: other ones differ by more than chance
    again = replace(request, seeds=_request(model, args, first=args.images).seeds)
    other = pictures(again, "other seeds") if args.floor else []
    with put(model, recipe, args) as execution:
        quantized = pictures(request, "quantized")
    remark("Comparing…")
    metrics = compare(full, quantized)
    real = reference_pictures(Path(args.reference) if args.reference else None, model.directory, model.limits.width)
    if real and args.images > 1:
        metrics += distances([p.pixels for p in quantized], real, extractor, "reference")
        metrics += distances([p.pixels for p in full.pictures], real, extractor, "reference_full")
    if other:
        metrics += floor(full, other)
    bits = bits_per_weight(model.structure, recipe.options, recipe.activations, recipe.weights)
    warning = other_scheduler(model, recipe, request)
    result = {
        "model": args.model, "recipe": recipe.hash, **({"warning": warning} if warning else {}),
        "bits_per_weight": bits, "images": args.images,
        "extractor": extractor.name,
        "metrics": [{"name": m.name, "value": m.value if abs(m.value) != float("inf") else None, "low": _finite(m.low),
                     "high": _finite(m.high), "n": m.n, "unit": m.unit} for m in metrics],
    }
    rows = [(m.name, f"{m.value:.4g}", f"[{m.low:.4g}, {m.high:.4g}]", m.n, m.unit) for m in metrics]
    table = aligned(("metric", "value", "95 %", "n", "unit"), rows)
    text = f"{bits:.3f} stored bits per weight\n{table}" + (f"\n{warning}" if warning else "")
    return told_kernels(result, text, execution, sides["full precision"], sides["quantized"])


def _finite(value: float) -> float | None:
    return value if abs(value) != float("inf") else None


def _request(model: Any, args: argparse.Namespace, first: int) -> Any:
    from dataclasses import replace

    from engine.providers.prompts import request_for, split_of

    if not 1 <= args.images <= 4096:
        raise InputError(f"--images must be from 1 to 4096, got {args.images}.")
    request = request_for(split_of(model), args.part, args.images, first=first, steps=args.steps,
                          guidance=args.guidance)
    if not args.prompts:
        return request
    try:
        lines = [x.strip() for x in Path(args.prompts).read_text().splitlines() if x.strip()]
    except (OSError, UnicodeDecodeError) as failure:
        raise InputError(f"Cannot read prompts from {args.prompts} ({failure}); pass a text file.") from None
    if not lines:
        raise InputError(f"{args.prompts} holds no prompts; write one per line.")
    return replace(request, prompts=tuple(lines[i % len(lines)] for i in range(first, first + args.images)))
