"""The providers of `sensitivity` that look at sampling trajectories: cross-layer correlation, activation errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.cli.progress import followed
from engine.cli.table import aligned
from engine.core.errors import InputError

PICTURES = {"orthogonality": 64, "activation-error": 16}
TOP = 12
AUTO = "auto"
MEAN_FIRST, AGGREGATES = "mean", ("mean", "exp-then-mean", "time-exp")


def arguments(parser: argparse.ArgumentParser) -> None:
    """What only these providers take."""
    group = parser.add_argument_group("orthogonality and activation-error")
    group.add_argument("--steps", type=int, help="sampling steps of the trajectories (default: the model's), and of "
                       "cumulative (default: 1)")
    group.add_argument("--profiled", type=int, metavar="K", default=0,
                       help="steps looked at, evenly spaced (default: 10 for orthogonality, 5 for activation errors)")
    group.add_argument("--first", type=int, default=0, help="first calibration picture, to take others (default: 0)")
    group.add_argument("--batch", type=int, help="pictures made at once")
    group.add_argument("--features", default="output", choices=["output", "input"], help="what of a layer is compared")
    group.add_argument("--biased", action="store_true", help="the estimate as released, which saturates")
    group.add_argument("--beta", default="10", help="sharpness of importance (default: 10), or auto: the value whose "
                       "recipe errs least on calibration pictures at --auto-bits")
    group.add_argument("--auto-bits", type=float, default=3.5, help="stored bits per weight of --beta auto")
    group.add_argument("--aggregate", default=MEAN_FIRST, choices=AGGREGATES, help="over steps (default: mean)")
    group.add_argument("--decay", type=float, default=0.3, help="lambda of time-exp, per profiled step (default: 0.3)")
    group.add_argument("--summed", action="store_true", help="gamma as OMPQ sums it, not its mean")
    group.add_argument("--tables", metavar="ID", help="static activation tables to judge (default: the online scheme)")


def orthogonality(model: Any, args: argparse.Namespace, command: str) -> Iterator[Any]:
    """Scores by MPQ-Diff's proxy: importance x weight error, then the published linear ones; the record is saved."""
    from dataclasses import replace

    from engine.calibrate.importance import BETA, Weighting
    from engine.calibrate.orthogonality import (
        Orthogonality,
        linear_scores,
        orthogonality_path,
        save_orthogonality,
        score,
        useful_scores,
    )
    from engine.calibrate.profile import ProfilePlan
    from engine.core.record import Scores
    from engine.providers.files import find_scores, save_scores, scores_path
    from engine.providers.weight_error import PROVIDER, weight_error

    _check_first(model, args)
    weighting = Weighting(args.aggregate, BETA if args.beta == AUTO else _number(args.beta), args.decay, args.summed)
    plan = ProfilePlan(_capture_plan(args), args.profiled, args.features)
    found = [e for e in followed(score(model, plan, debiased=not args.biased, directory=_folder(args)), "orthogonality")
             if isinstance(e, Orthogonality)][-1]
    out = Path(args.out).with_suffix(".safetensors") if args.out else orthogonality_path(model.structure)
    save_orthogonality(out, found)
    errors = find_scores(model.structure).get(PROVIDER)
    if errors is None:
        errors = [e for e in followed(weight_error(model), "weight error") if isinstance(e, Scores)][-1]
        save_scores(scores_path(model.structure, PROVIDER), errors)
    if args.beta == AUTO:
        weighting = replace(weighting, beta=_searched(model, args, found, errors, weighting))
        command += f" --beta {weighting.beta:g}"
    useful = useful_scores(model.structure, found, errors, weighting, command)
    _check_beta(useful.layers, weighting.beta)
    yield useful
    yield linear_scores(model.structure, found, replace(weighting, tail=True), command=command)


def _check_first(model: Any, args: argparse.Namespace) -> None:
    """Pictures beyond the prompts would show the same ones again.

    Raises:
        InputError: the first picture is beyond the calibration prompts.
    """
    from engine.calibrate.capture import PART
    from engine.providers.prompts import split_of

    prompts = len(split_of(model).part(PART))
    if prompts and args.first >= prompts:
        raise InputError(f"--first must be from 0 to {prompts - 1}, because {args.model} has {prompts} calibration "
                         f"prompts, got {args.first}; pass a smaller one.")


def _check_beta(layers: Mapping[str, Mapping[str, float]], beta: float) -> None:
    """A layer of no importance costs nothing at any width, and nothing tells such layers apart.

    Raises:
        InputError: the importance of most layers is rounded to 0.
    """
    lost = sum(bool(row) and not any(row.values()) for row in layers.values())
    if 2 * lost > len(layers):
        raise InputError(f"--beta {beta:g} rounds the importance of {lost} of {len(layers)} layers to 0, so nothing "
                         f"tells them apart; pass a smaller one (default: 10).")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--beta takes a number above 0, or {AUTO}; got {text[:40]!r}.") from None


def _searched(model: Any, args: argparse.Namespace, found: Any, errors: Any, weighting: Any) -> float:
    """The beta whose recipe errs least on calibration pictures that the scores were not made from."""
    from dataclasses import replace

    from engine.allocate.allocators import allocate
    from engine.allocate.budget import bits_budget
    from engine.allocate.problem import layer_problem
    from engine.calibrate.beta import BETAS, Choice, choose
    from engine.calibrate.orthogonality import useful_scores

    budget = bits_budget(args.auto_bits, model.structure)
    recipes = {}
    for beta in BETAS:
        scores = useful_scores(model.structure, found, errors, replace(weighting, beta=beta))
        recipes[beta] = allocate(layer_problem(model.structure, scores, budget), "lagrangian").recipe
    first = args.first + found.images
    chosen = [e for e in followed(choose(model, recipes, first=first), "beta") if isinstance(e, Choice)][-1]
    said = ", ".join(f"{beta:g}: {loss:.4g}" for beta, loss in chosen.losses.items())
    print(f"beta {chosen.value:g} by image error on {chosen.images} calibration pictures ({said})", file=sys.stderr)
    return chosen.value


def activation_error(model: Any, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """How much each width changes each layer's input; saved beside the scores."""
    from engine.calibrate.activation_errors import activation_errors
    from engine.calibrate.activation_files import ActivationErrors, errors_path, save_activation_errors
    from engine.calibrate.capture import Captured, capture

    _check_first(model, args)
    tables = model.find_tables(args.tables) if args.tables else None
    captured = [e for e in followed(capture(model, _capture_plan(args), directory=_folder(args)), "trajectories")
                if isinstance(e, Captured)][-1]
    found = [e for e in followed(activation_errors(model, captured, tables=tables, steps=args.profiled or None),
                                 "activation errors") if isinstance(e, ActivationErrors)][-1]
    out = Path(args.out) if args.out else errors_path(model.structure, found.scheme)
    save_activation_errors(out, found)
    bits = min((int(b) for row in found.layers.values() for b in row), default=0)
    ranked = sorted(((row[str(bits)], name) for name, row in found.layers.items()), reverse=True)
    result = {"provider": args.provider, "model": args.model, "scheme": found.scheme, "scores": found.layers,
              "macs": found.macs, "about": found.about, "out": str(out)}
    text = (f"{found.scheme} activations, relative squared input error: {len(found.layers)} layers; most fragile at "
            f"{bits} bits:\n" + aligned(("layer", "error"), [(n, v) for v, n in ranked[:TOP]]))
    return result, text


def _capture_plan(args: argparse.Namespace) -> Any:
    from engine.calibrate.capture import CapturePlan

    return CapturePlan(args.images or PICTURES[args.provider], args.first, args.steps, batch=args.batch)


def _folder(args: argparse.Namespace) -> Path | None:
    return Path(args.partial) if args.partial else None
