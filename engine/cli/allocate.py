"""`allocate`: a budget and scores -> the recipe, with a bound on how much better any other could be."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from engine.allocate.allocators import ALLOCATORS, Settings, allocate
from engine.cli import pairs
from engine.cli.opening import new_file
from engine.core.errors import InputError

PREFERRED = ("predictor", "measured", "weight-error")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Model, budget, allocator, and what it must respect."""
    parser.add_argument("model", metavar="MODEL")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--bits", type=float, metavar="B", help="stored bits per weight, such as 3.5")
    budget.add_argument("--size", metavar="SIZE", help="of the quantizable layers: 3MB, 1.2GB, or 40%%")
    budget.add_argument("--fits", metavar="SIZE", help="the whole pipeline in so much memory, such as 8GB: text "
                        "encoders, autoencoder and --working are taken off")
    parser.add_argument("--working", metavar="SIZE", help="memory that computing needs beside the weights, with --fits "
                        "(default: the activations of one picture, counted without weights)")
    parser.add_argument("--method", default="knapsack", choices=sorted(ALLOCATORS))
    parser.add_argument("--provider", metavar="P", help="whose scores: a name, or a scores file "
                        f"(default: the first found of {', '.join(PREFERRED)})")
    parser.add_argument("--out", metavar="FILE", help="where the recipe is written")
    parser.add_argument("--options", nargs="+", metavar="OPTION", help="options on offer (default: all with a score)")
    parser.add_argument("--pin", nargs="+", default=[], metavar="LAYER=OPTION", help="layers that keep an option")
    parser.add_argument("--same", nargs="+", default=[], metavar="LAYER,LAYER", help="layers that share one option")
    parser.add_argument("--quantize-all", action="store_true", help="leave no layer untouched, unless pinned")
    parser.add_argument("--lambda", dest="weight", type=float, metavar="L",
                        help="price of a bit per weight, for faithful (default: the least that fits)")
    parser.add_argument("--draws", type=int, default=64, help="how many random recipes, for random")
    parser.add_argument("--seed", type=int, default=0, help="of the random recipes")
    parser.add_argument("--exclude", metavar="WHAT", default="none",
                        help="layers outside the search: none, first-last, dmq (both ends, time embedding, modulation)")
    parser.add_argument("--excluded-at", metavar="OPTION", default="uaq-8", help="what those keep (default: uaq-8)")
    parser.add_argument("--beside", action=argparse.BooleanOptionalAction, help="print the controls at the same budget "
                        "too (default: for MPQ-Diff's methods)")
    pairs.arguments(parser)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Solve, write, and say size, damage and bound."""
    from engine.allocate.problem import layer_problem
    from engine.core.recipe import save_recipe
    from engine.models.structure import read_structure

    structure = read_structure(args.model)
    if args.bops and not args.activations:
        raise InputError("--bops counts bits of weights and activations together; name activation widths with "
                         "--activations, such as --activations 8 6 4.")
    if args.out:
        new_file(args.out)
    if not (args.size or args.fits) and args.bits is None and not (args.activations and args.bops):
        raise InputError("An allocation needs a budget: --bits, --size, --fits, or --activations with --bops.")
    scores = _scores(structure, ALLOCATORS[args.method].provider or args.provider, args.method)
    problem = layer_problem(structure, scores, _budget(args, structure), _limits(args, structure))
    if args.beside is None:
        args.beside = args.method.startswith("mpq-")  # an unproven signal: never without what knows nothing
    if args.activations:
        return pairs.run(args, structure, scores, problem)
    answer = allocate(problem, args.method, Settings(args.weight, args.draws, args.seed))
    if args.out:
        save_recipe(args.out, answer.recipe, structure)
    result = {
        "method": args.method, "provider": scores.provider, "unit": scores.unit, "budget_bytes": problem.budget_bytes,
        "bits_per_weight": answer.bits_per_weight, "bytes": answer.bytes, "damage": answer.cost,
        "bound": answer.bound, "gap": answer.gap, "proved": answer.proved, "seconds": answer.seconds,
        "recipe": answer.recipe.hash, "out": args.out or "",
    }
    text = (f"{args.method} by {scores.provider}: {answer.bits_per_weight:.3f} bits per weight, "
            f"{answer.bytes / 1e6:.3f} MB of {problem.budget_bytes / 1e6:.3f} MB\n"
            f"damage {answer.cost:.4g} ({scores.unit}), {pairs.bounded(answer)}, {answer.seconds:.2f} s"
            f"\n{pairs.kept(answer, args.out)}")
    if args.beside:
        makers = _controls(args, structure, problem)
        text += "\n" + pairs.beside(makers, result, ("bits_per_weight", "bytes"), scores.provider)
    return result, text


def _controls(args: argparse.Namespace, structure: Any, problem: Any) -> dict[str, Any]:
    """Name -> what makes the control at the same budget, judged by the same scores."""
    from engine.allocate.baselines import error_only
    from engine.providers.files import find_scores

    names = [name for name, row in ALLOCATORS.items() if not row.scored and name != args.method]
    settings = Settings(None, args.draws, args.seed)
    makers: dict[str, Any] = {name: lambda name=name: allocate(problem, name, settings)  # type: ignore[misc]
                              for name in names}
    if args.method != "weight-error":
        found = find_scores(structure).get("weight-error")
        makers["weight-error"] = lambda: error_only(problem, found.layers if found else {})
    return makers


def _budget(args: argparse.Namespace, structure: Any) -> int:
    from engine.allocate.budget import bits_budget, layers_budget, memory_size, parse_budget
    from engine.core.sizes import full_bytes

    if args.fits:
        working = memory_size(args.working) if args.working else _working(args.model, structure)
        return layers_budget(memory_size(args.fits), structure, working)
    if not args.size and args.bits is None:
        return full_bytes(structure)
    return parse_budget(args.size, structure) if args.size else bits_budget(args.bits, structure)


def _working(model: str, structure: Any) -> int:
    """Bytes of activations at the model's own size; said on stderr, with what is not in it."""
    from engine.models.working import working_memory

    found = working_memory(model, precision_bits=structure.precision_bits)
    decoder = f"{found.decoder / 1e6:,.0f} MB" if found.decoder else "not counted (its configuration is not here)"
    print(f"Activations of one picture: denoiser with guidance {found.denoiser / 1e6:,.0f} MB, decoding {decoder}.",
          file=sys.stderr)
    return found.peak


def _scores(structure: Any, wanted: str | None, method: str) -> Any:
    """Scores by name, by file, or the best kind that is at hand."""
    from engine.allocate.problem import blind_scores
    from engine.providers.files import check_scores, find_scores, load_scores
    from engine.providers.table import completed

    if wanted and (wanted.endswith(".json") or Path(wanted).is_file()):
        scores = load_scores(wanted)
        check_scores(scores, structure)
        if not scores.is_damage:
            raise InputError(f"{wanted} holds {scores.provider}, {scores.unit}: that says nothing about what bits "
                             f"cost; name scores of damage.")
        return scores
    found = {name: scores for name, scores in find_scores(structure).items() if scores.is_damage}
    for name in [wanted] if wanted else [*PREFERRED, *found]:
        if name in found:
            return completed(structure, found, name)
    if not wanted and not ALLOCATORS[method].scored:
        return blind_scores(structure)
    maker = _maker(wanted)
    raise InputError(f"There are no {wanted or ''}{' ' if wanted else ''}scores of {structure.model} for {method} "
                     f"(at hand: {', '.join(found) or 'none'}). --method size-only and uniform need none; with its "
                     f"weights on this machine, sensitivity {structure.model} --provider {maker}"
                     f"{'' if wanted and wanted.startswith(maker) else ', or a study and fit,'} makes them.")


def _maker(wanted: str | None) -> str:
    """The provider of `sensitivity` whose run makes these scores."""
    known = (*PREFERRED[1:], "orthogonality", "cumulative")
    return next((name for name in known if wanted and wanted.startswith(name)), PREFERRED[-1])


def _limits(args: argparse.Namespace, structure: Any) -> Any:
    from engine.allocate.problem import Limits
    from engine.calibrate.allocation import EXCLUSIONS
    from engine.core.option import FP16, parse_option
    from engine.core.sizes import sensible_options

    if args.exclude not in EXCLUSIONS:
        raise InputError(f"--exclude takes {', '.join(EXCLUSIONS)}, not {args.exclude[:20]!r}.")
    kept = parse_option(args.excluded_at)
    pinned = {x.name: kept if kept in sensible_options(x, structure.precision_bits) else FP16
              for x in structure.choices if x.role in EXCLUSIONS[args.exclude]}
    for text in args.pin:
        name, found, option = text.rpartition("=")
        if not found:
            raise InputError(f"--pin takes LAYER=OPTION, got {text[:60]!r}.")
        pinned[name] = parse_option(option)
    options = tuple(parse_option(o) for o in args.options) if args.options else None
    groups = tuple(tuple(part for part in text.split(",") if part) for text in args.same)
    return Limits(options, pinned, groups, keep_untouched=not args.quantize_all)
