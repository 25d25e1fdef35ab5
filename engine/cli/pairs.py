"""The part of `allocate` that gives layers activation bits too: pairs under bytes, bit operations, or both."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.cli.progress import remark
from engine.cli.table import aligned
from engine.core.errors import InputError

_BOPS = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kKMGT%]?)\s*")
UNITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Activation widths, their scheme, and the budget of bit operations."""
    parser.add_argument("--activations", nargs="+", metavar="BITS",
                        help="activation widths on offer, such as 8 6 4 (16 = full precision); one = for all layers")
    parser.add_argument("--scheme", default="token", choices=["token", "static"], help="of the activations")
    parser.add_argument("--bops", metavar="N",
                        help="bit operations of one denoiser call: 2.5G, or 6%% of full precision")


def run(args: argparse.Namespace, structure: Any, scores: Any, problem: Any) -> tuple[dict[str, Any], str]:
    """Solve, write, and say size, bit operations, damage and bound."""
    from engine.allocate.pairs import full_bops, pair_problem
    from engine.core.recipe import save_recipe

    if args.bops:
        parse_bops(args.bops, 1)  # what cannot be read is said before anything else that is missing
    remark("Counting bit operations…")
    offered, macs = _offered(args, structure, scores)
    whole = full_bops(structure, macs)
    budget = parse_bops(args.bops, whole) if args.bops else None
    sized = bool(args.size or args.fits) or args.bits is not None
    pairs = pair_problem(structure, problem, offered, size=sized, budget_bops=budget)
    answer = _solved(args, scores, pairs)
    if args.out:
        save_recipe(args.out, answer.recipe, structure)
    widths: dict[str, int] = {}
    for layer in structure.choices:
        found = answer.recipe.activations.get(layer.name)
        widths[str(found.bits if found else 16)] = widths.get(str(found.bits if found else 16), 0) + 1
    result = {
        "method": args.method, "provider": scores.provider, "unit": scores.unit,
        "budget_bytes": pairs.budget_bytes, "budget_bops": budget, "bits_per_weight": answer.bits_per_weight,
        "bytes": answer.bytes, "bops": answer.bops, "full_bops": whole, "damage": answer.cost, "bound": answer.bound,
        "gap": answer.gap, "proved": answer.proved, "seconds": answer.seconds, "slack_bytes": answer.slack_bytes,
        "slack_bops": answer.slack_bops, "activation_bits": widths, "recipe": answer.recipe.hash, "out": args.out or "",
    }
    said = ", ".join(f"{count} layers at {bits}" for bits, count in sorted(widths.items(), key=lambda w: int(w[0])))
    text = (f"{args.method} by {scores.provider}: {answer.bits_per_weight:.3f} bits per weight, "
            f"{answer.bytes / 1e6:.3f} MB; {answer.bops / 1e9:.3f} GBOPs of {whole / 1e9:.3f}\n"
            f"activation bits: {said}\n"
            f"damage {answer.cost:.4g} ({scores.unit}), {bounded(answer)}, {answer.seconds:.2f} s"
            f"\n{kept(answer, args.out)}")
    if args.beside:
        makers = _controls(args, structure, pairs)
        text += "\n" + beside(makers, result, ("bits_per_weight", "bytes", "bops"), scores.provider)
    return result, text


def bounded(answer: Any) -> str:
    """How much better any recipe of this size could be, in words."""
    if answer.proved:
        return "proved optimal: no recipe of this size has less"
    if answer.bound <= 0 or answer.bound < 1e-9 * answer.cost:
        return "with no bound on how much less another recipe of this size could have"
    return f"no recipe of this size has less than {answer.bound:.4g} ({answer.cost / answer.bound:.3g} times less)"


def kept(answer: Any, out: str | None) -> str:
    """Where the recipe is."""
    return f"recipe {answer.recipe.hash} in {out}" if out else "not written; name a file with --out"


def beside(makers: Mapping[str, Callable[[], Any]], result: dict[str, Any], sizes: Sequence[str], provider: str) -> str:
    """The controls as a table; they join the result, and one that has no recipe there says why.

    Args:
        makers: control -> what makes its allocation.
        result: gets `beside` (method, sizes, damage) and `beside_left_out` (method -> reason).
        sizes: figures of the allocations that are shown, besides the damage.
        provider: whose damage it is.
    """
    rows, left = [], {}
    for name, make in makers.items():
        try:
            answer = make()
        except InputError as failure:
            left[name] = str(failure)
            continue
        rows.append({"method": name, **{key: getattr(answer, key) for key in sizes}, "damage": answer.cost})
    result["beside"], result["beside_left_out"] = rows, left
    table = aligned(("beside it", *(key.replace("_", " ") for key in sizes), f"damage by {provider}"),
                    [tuple(row.values()) for row in rows])
    return "\n".join([table, *(f"{name} left out: {reason}" for name, reason in left.items())])


def parse_bops(text: str, whole: int) -> int:
    """Bit operations of `2.5G` or `6%` (of full precision).

    Raises:
        InputError: no number, an unknown unit, or not above zero.
    """
    match = _BOPS.fullmatch(text)
    if not match or float(match[1]) <= 0:
        raise InputError(f"{text[:40]!r} is no budget of bit operations; write a number above 0 (2.5G) or a share of "
                         f"full precision (6%).")
    value = float(match[1])
    return int(value / 100 * whole) if match[2] == "%" else int(value * UNITS[match[2]])


def _solved(args: argparse.Namespace, scores: Any, problem: Any) -> Any:
    from engine.allocate.allocators import ALLOCATORS
    from engine.allocate.pair_controls import linear_pairs, random_pairs, uniform_pairs
    from engine.allocate.pairs import solve_pairs
    from engine.calibrate.orthogonality import importances

    special = {
        "mpq-diff": lambda: linear_pairs(problem, importances(scores)), "uniform": lambda: uniform_pairs(problem),
        "random": lambda: random_pairs(problem, args.draws, args.seed),
    }
    optimal = ("knapsack", "mpq-diff-useful", "weight-error", "size-only")
    if args.method in special:
        return special[args.method]()
    if args.method in optimal:
        return solve_pairs(problem, allocator=args.method)
    known = ", ".join(m for m in ALLOCATORS if m in (*special, *optimal))
    raise InputError(f"{args.method} chooses weight bits only; with --activations use one of {known}.")


def _controls(args: argparse.Namespace, structure: Any, problem: Any) -> dict[str, Any]:
    from engine.allocate.pair_controls import controls
    from engine.calibrate.activation_files import find_activation_errors
    from engine.providers.files import find_scores

    errors, weight = find_activation_errors(structure, args.scheme), find_scores(structure).get("weight-error")
    inputs = {name: {int(b): e for b, e in row.items()} for name, row in errors.layers.items()} if errors else {}
    made = controls(problem, weight.layers if weight else {}, inputs, args.draws, args.seed)
    return {name: make for name, make in made.items() if name != args.method}


def _offered(args: argparse.Namespace, structure: Any, scores: Any) -> tuple[Any, Any]:
    """What is on offer for inputs, in the unit of the scores, and the multiply-adds of layers."""
    from engine.allocate.pairs import ActivationChoices
    from engine.calibrate.activation_files import find_activation_errors, with_activation_damage
    from engine.providers.files import find_scores

    widths = _widths(args.activations)
    errors = find_activation_errors(structure, args.scheme)
    if errors is None:
        tables = " --tables ID (of tables that calibrate made)" if args.scheme == "static" else ""
        raise InputError(f"The activation errors of {structure.model} ({args.scheme}) are not known yet; run: "
                         f"python -m engine sensitivity {structure.model} --provider activation-error{tables}")
    weight = find_scores(structure).get("weight-error")
    if scores.provider != "none" and weight is None:
        raise InputError(f"Activation damage is scaled by weight errors, which are not known yet; run: python -m "
                         f"engine sensitivity {structure.model} --provider weight-error")
    if weight is None or scores.provider == "none":
        damage = {name: {b: 4.0**-b for b in widths} for name in errors.layers}
    else:
        damage = with_activation_damage(errors, weight.layers, scores.layers)
    wanted = tuple(b for b in widths if b != 16)
    settings = {name: {b: errors.setting(name, b) for b in wanted} for name in errors.layers}
    return ActivationChoices(damage, settings, errors.macs, wanted, 16 in widths), errors.macs


def _widths(texts: list[str]) -> tuple[int, ...]:
    from engine.core.activation import ACTIVATION_BITS

    known = (*ACTIVATION_BITS, 16)
    wrong = [t for t in texts if not t.isdigit() or int(t) not in known]
    if wrong:
        raise InputError(f"--activations takes {', '.join(map(str, known))}, not {wrong[0][:20]!r}.")
    return tuple(dict.fromkeys(int(t) for t in texts))
