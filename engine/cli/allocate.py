"""`allocate`: a budget and scores -> the recipe, with a bound on how much better any other could be."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from engine.allocate.allocators import ALLOCATORS, Settings, allocate, sweep
from engine.allocate.blocks import JOINT
from engine.cli import pairs
from engine.cli.opening import new_file
from engine.cli.progress import followed
from engine.cli.table import aligned
from engine.core.errors import InputError

PREFERRED = ("predictor", "measured", "weight-error")
SWEEP = (2.5, 2.75, 3.0, 3.25, 3.5, 4.0, 4.5, 5.0, 6.0, 8.0)
EXTRAPOLATED_SHOWN = 6


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
    parser.add_argument("--method", default="knapsack", choices=sorted(ALLOCATORS),
                        help="faithful and faithful-blocks are Qua2SeDiMo's own: layers, or blocks jointly, by the "
                        "embeddings of a fitted predictor; joint scores are made once, which takes minutes "
                        "(default: knapsack)")
    parser.add_argument("--provider", metavar="P", help="whose scores: a name, or a scores file "
                        f"(default: the first found of {', '.join(PREFERRED)}; of faithful: gnn-operation before "
                        "these)")
    parser.add_argument("--sweep", nargs="*", type=float, metavar="B", help="instead of one budget a table over many, "
                        f"in bits per weight (default: {', '.join(f'{b:g}' for b in SWEEP)})")
    parser.add_argument("--out", metavar="FILE", help="where the recipe is written")
    parser.add_argument("--options", nargs="+", metavar="OPTION", help="options on offer (default: all with a score; "
                        "of faithful-blocks: uaq, kmeans_c and kmeans_a at 3 and 4 bits)")
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
    from engine.allocate.support import supported
    from engine.core.sizes import full_bytes
    from engine.models.structure import read_structure

    structure = read_structure(args.model)
    _check(args)
    budget = _budget(args, structure) if args.sweep is None else full_bytes(structure)
    limits = _limits(args, structure)
    if ALLOCATORS[args.method].provider == JOINT:
        scores, problem = _joint(structure, budget, limits)
        left_out = 0
    else:
        every = _scores(structure, args.method, args.provider)
        scores = supported(every, limits)
        left_out = sum(len(row) - len(scores.layers[name]) for name, row in every.layers.items())
        problem = layer_problem(structure, scores, budget, limits)
    if args.sweep is not None:
        result, text = _swept(args, problem, scores)
    elif args.activations:
        result, text = pairs.run(args, structure, scores, problem)
    else:
        result, text = _solved(args, structure, scores, problem)
    return {**result, "left_out": left_out}, text + (
        f"\nleft out: {left_out} scores of options that hardly any trial held there" if left_out else "")


def _check(args: argparse.Namespace) -> None:
    """Say what cannot be before anything is computed."""
    if args.bops and not args.activations:
        raise InputError("--bops counts bits of weights and activations together; name activation widths with "
                         "--activations, such as --activations 8 6 4.")
    if args.out:
        new_file(args.out)
    if args.sweep is not None:
        if args.out or args.activations or args.size or args.fits or args.bits is not None:
            raise InputError("--sweep prints a table over budgets of its own; leave --bits, --size, --fits, "
                             "--activations and --out away.")
        if not all(0 < b < float("inf") for b in args.sweep):
            raise InputError("--sweep takes bits per weight above 0.")
    elif not (args.size or args.fits) and args.bits is None and not (args.activations and args.bops):
        raise InputError("An allocation needs a budget: --bits, --size, --fits, or --activations with --bops.")
    if ALLOCATORS[args.method].provider == JOINT and (args.activations or args.provider):
        raise InputError(f"{args.method} goes by joint scores of weights alone; leave --provider and --activations "
                         f"away.")
    if args.beside is None:
        args.beside = args.method.startswith("mpq-")  # an unproven signal: never without what knows nothing


def _solved(args: argparse.Namespace, structure: Any, scores: Any, problem: Any) -> tuple[dict[str, Any], str]:
    """One budget's recipe."""
    from engine.allocate.support import unsupported
    from engine.core.recipe import save_recipe

    answer = allocate(problem, args.method, Settings(args.weight, args.draws, args.seed))
    if args.out:
        save_recipe(args.out, answer.recipe, structure)
    beyond = unsupported(scores, answer.recipe.options)
    result = {
        "method": args.method, "provider": scores.provider, "unit": scores.unit, "budget_bytes": problem.budget_bytes,
        "bits_per_weight": answer.bits_per_weight, "bytes": answer.bytes, "damage": answer.cost,
        "bound": answer.bound, "gap": answer.gap, "proved": answer.proved, "seconds": answer.seconds,
        "recipe": answer.recipe.hash, "out": args.out or "", "extrapolated": beyond,
    }
    text = (f"{args.method} by {scores.provider}: {answer.bits_per_weight:.3f} bits per weight, "
            f"{answer.bytes / 1e6:.3f} MB of {problem.budget_bytes / 1e6:.3f} MB\n"
            f"damage {answer.cost:.4g} ({scores.unit}), {pairs.bounded(answer)}, {answer.seconds:.2f} s"
            f"\n{pairs.kept(answer, args.out)}")
    if beyond:
        some = [f"{name} at {option}" for name, option in beyond.items()][:EXTRAPOLATED_SHOWN]
        text += (f"\nextrapolated: {len(beyond)} layers hold an option that hardly any trial held there "
                 f"({', '.join(some)}{', ...' if len(beyond) > len(some) else ''})")
    if args.beside:
        makers = _controls(args, structure, problem)
        text += "\n" + pairs.beside(makers, result, ("bits_per_weight", "bytes"), scores.provider)
    return result, text


def _swept(args: argparse.Namespace, problem: Any, scores: Any) -> tuple[dict[str, Any], str]:
    """A table over budgets: one set of scores serves them all."""
    budgets = [int(b * problem.weights / 8) for b in args.sweep or SWEEP]
    rows = []
    for answer in sweep(problem, [min(b, problem.budget_bytes) for b in budgets], args.method,
                        Settings(args.weight, args.draws, args.seed)):
        rows.append({"budget_bytes": answer.recipe.provenance["budget_bytes"], "bytes": answer.bytes,
                     "bits_per_weight": answer.bits_per_weight, "lambda": answer.recipe.provenance.get("lambda"),
                     "damage": answer.cost, "bound": answer.bound})
    if not rows:
        least = 8 * problem.smallest_bytes / problem.weights
        raise InputError(f"No recipe is that small: with these options and pins the least is {least:.2f} bits.")
    result = {"method": args.method, "provider": scores.provider, "unit": scores.unit, "sweep": rows}
    table = aligned(("bits per weight", "MB", "lambda", "damage", "no less than"), [
        (f"{r['bits_per_weight']:.3f}", f"{r['bytes'] / 1e6:.3f}",
         "-" if r["lambda"] is None else f"{r['lambda']:.4g}", f"{r['damage']:.4g}", f"{r['bound']:.4g}")
        for r in rows])
    return result, f"{args.method} by {scores.provider}, damage: {scores.unit}\n{table}"


def _joint(structure: Any, budget: int, limits: Any) -> tuple[Any, Any]:
    """Joint scores of blocks, made by the predictor's networks unless they are kept, and their problem."""
    import torch

    from engine.allocate.blocks import PAPER, UNIT, block_files, block_problem, find_blocks, save_blocks
    from engine.analysis.library import find_predictor
    from engine.analysis.scoring import operation_scores
    from engine.core.record import Scores
    from engine.evidence.blocks import scored_blocks

    predictor = find_predictor(structure)
    if predictor is None:
        raise InputError(f"Joint scores of blocks come from a predictor, and {structure.model} has none; study and fit "
                         f"make one.")
    options, operation = limits.options or PAPER, operation_scores(predictor)
    joints = find_blocks(structure, operation, options)
    if joints is None:
        torch.set_num_threads(1)  # small tensors: threads would only wait for each other
        steps = followed(scored_blocks(predictor, options), "joint scores")
        joints = next(step for step in steps if isinstance(step, tuple))
        save_blocks(block_files(structure, options)[0], joints, operation)
    return Scores(JOINT, structure.identity, UNIT, {}), block_problem(structure, joints, budget, limits)


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


def _scores(structure: Any, method: str, asked: str | None) -> Any:
    """Scores by name, by file, or the best kind that is at hand."""
    from engine.allocate.problem import blind_scores
    from engine.allocate.support import with_support
    from engine.providers.files import check_scores, find_scores, load_scores
    from engine.providers.table import completed

    wanted = ALLOCATORS[method].provider or asked
    if wanted and (wanted.endswith(".json") or Path(wanted).is_file()):
        scores = load_scores(wanted)
        check_scores(scores, structure)
        if not scores.is_damage:
            raise InputError(f"{wanted} holds {scores.provider}, {scores.unit}: that says nothing about what bits "
                             f"cost; name scores of damage.")
        return scores
    found = {name: scores for name, scores in find_scores(structure).items() if scores.is_damage}
    for name in [wanted] if wanted else [ALLOCATORS[method].preferred, *PREFERRED, *found]:
        if name in found:
            return with_support(completed(structure, found, name), found)
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
