"""`generate`: one picture; with a recipe, full precision and quantized side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from engine.cli.export import recipe_named
from engine.cli.kernels import gauged, kernels_argument, prepare_kernels, put, told_kernels
from engine.cli.opening import new_file, opened, placement_arguments
from engine.cli.progress import followed
from engine.core.errors import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Model, what to draw, how, and where to."""
    parser.add_argument("model", metavar="MODEL")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompt", help="text, for text-conditioned models")
    what.add_argument("--label", type=int, help="class number, for class-conditioned models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--negative", default="", help="what to steer away from")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--scheduler", default="", help="another scheduler the model is compatible with")
    parser.add_argument("--recipe", metavar="FILE", help="to compare with full precision: recipe JSON, or a preset "
                        "such as uaq-4")
    parser.add_argument("--transfer", action="store_true", help="apply a recipe made for another model by layer name")
    kernels_argument(parser)
    placement_arguments(parser)
    parser.add_argument("--out", metavar="PNG", required=True)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Draw and save; the PNG carries seed and recipe."""
    from engine.core.recipe import bits_per_weight
    from engine.live.apply import apply
    from engine.live.generate import Picture, generate
    from engine.live.png import save_png
    from engine.live.request import Request
    from engine.live.schedules import other_scheduler
    from engine.metrics.compare import compare
    from engine.models.structure import read_structure

    new_file(args.out)
    if Path(args.out).suffix.lower() != ".png":
        raise InputError(f"Pictures are written as PNG; name a .png file with --out, not {args.out[:80]!r}.")
    recipe = recipe_named(read_structure(args.model), args.recipe, args.transfer) if args.recipe else None
    if recipe is None and args.kernels == "packed":
        raise InputError("--kernels packed executes the layers of a recipe; name one with --recipe, or leave it out.")
    model = opened(args)
    _check_conditioning(args, model.limits.conditioning)
    if args.prompt is None and model.limits.conditioning == "text":
        print("Without --prompt TEXT the picture is of nothing in particular.", file=sys.stderr)
    request = Request(prompts=(args.prompt or "",), labels=(args.label or 0,), negative=args.negative,
                      seeds=(args.seed,), steps=args.steps, guidance=args.guidance, scheduler=args.scheduler)

    def picture(title: str) -> tuple[Picture, dict[str, float]]:
        figures: dict[str, float] = {}
        events = gauged(followed(generate(model, request), title), figures)
        return next(e for e in list(events) if isinstance(e, Picture)), figures

    if recipe:  # what does not fit is refused here, before anything is drawn; layers move only when it is run through
        apply(model, recipe)
        prepare_kernels(model, recipe, args)
    full, full_figures = picture("full precision")
    if full.cut_tokens:
        print(f"The last {full.cut_tokens} tokens of the prompt are beyond what {args.model} reads; shorten it.",
              file=sys.stderr)
    if recipe is None:
        save_png(full, args.out)
        result = {"out": args.out, "seed": args.seed, "cut_tokens": full.cut_tokens}
        return result, f"{args.out}: seed {args.seed}, full precision"
    with put(model, recipe, args) as execution:
        quantized, figures = picture("quantized")
    metrics = compare([full], [quantized])
    save_png(beside(full, quantized), args.out, recipe)
    bits = bits_per_weight(model.structure, recipe.options, recipe.activations, recipe.weights)
    warning = other_scheduler(model, recipe, request)
    told = f"\n{warning}" if warning else ""
    result = {"out": str(Path(args.out)), "seed": args.seed, "recipe": recipe.hash, "bits_per_weight": bits,
              "cut_tokens": full.cut_tokens, **({"warning": warning} if warning else {}),
              "metrics": {m.name: m.value for m in metrics if abs(m.value) != float("inf")}}
    said = ", ".join(f"{m.name} {m.value:.4g} {m.unit}".strip() for m in metrics)
    text = f"{args.out}: full precision | {bits:.2f} stored bits per weight, seed {args.seed}; {said}{told}"
    return told_kernels(result, text, execution, full_figures, figures)


def _check_conditioning(args: argparse.Namespace, conditioning: str) -> None:
    """Refuse a prompt or label that the model would not look at.

    Raises:
        InputError: it draws from something else.
    """
    came = {"text": f"--prompt {str(args.prompt)[:40]!r}" if args.prompt is not None else "",
            "class": f"--label {args.label}" if args.label is not None else ""}
    expected = {"text": "text; pass --prompt TEXT instead", "class": "a class number; pass --label NUMBER instead",
                "none": "the seed alone; leave it out"}
    for kind, words in came.items():
        if words and kind != conditioning:
            raise InputError(f"{words} came, but {args.model} draws from {expected[conditioning]}.")


def beside(full: Any, quantized: Any) -> Any:
    """Both pictures as one, full precision left."""
    from dataclasses import replace

    import numpy as np

    return replace(quantized, pixels=np.concatenate([full.pixels, quantized.pixels], axis=1), latents=None)
