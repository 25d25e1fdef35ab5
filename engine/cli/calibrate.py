"""`calibrate`: ranges, scalings, rounding and shifts for an allocation; writes the recipe that uses them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.opening import new_file, opened, placement_arguments
from engine.cli.progress import followed
from engine.cli.table import aligned
from engine.core.errors import InputError

if TYPE_CHECKING:
    from engine.calibrate.dmq import Calibrated, DmqPlan
    from engine.core.recipe import Recipe
    from engine.live.model import Model

METHODS = ("ranges", "les", "dmq")
ROUNDINGS = ("adaround", "nearest")
NAMED = 5  # layers that the text names of a kind; the JSON names all
WEIGHTINGS = ("adaptive", "uniform", "linear", "quadratic")
# What a calibrated preset has at its default: everything that is calibrated by, but for what the preset's name says.
SETTINGS = ("exclude", "weights", "scheme", "scaling", "weighting", "rounding", "shifts", "where", "images", "steps",
            "rows", "groups", "iterations", "rounding_iterations")


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is calibrated, how far, on how much, and where the recipe goes."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--method", required=True, choices=METHODS,
                        help="ranges: static activations; les: learned scaling too; dmq: everything")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--preset", default="W4A8", help="bits of weights and activations, such as W8A8, W4A8, W4A6")
    what.add_argument("--recipe", metavar="FILE", help="an allocation instead: its options, and its activation bits")
    parser.add_argument("--out", metavar="FILE", required=True, help="the calibrated recipe")
    parser.add_argument("--exclude", default="dmq", help="left in full precision: none, first-last, dmq")
    parser.add_argument("--weights", default="uaq", metavar="METHOD", help="how a preset stores weights (default: uaq)")
    parser.add_argument("--scheme", default="static", choices=["static", "token"], help="of the activations")
    parser.add_argument("--scaling", default="les", choices=["les", "smooth", "none"],
                        help="learned, the heuristic control, or none (les and dmq)")
    parser.add_argument("--weighting", default="adaptive", choices=WEIGHTINGS, help="of the timesteps while scaling")
    parser.add_argument("--rounding", default="adaround", choices=ROUNDINGS, help="of the weights (dmq)")
    parser.add_argument("--shifts", default="voting", choices=["voting", "error", "none"],
                        help="how power-of-two factors are chosen (dmq, static)")
    parser.add_argument("--where", default="auto", choices=["auto", "skip", "spread", "all"],
                        help="which layers take them")
    parser.add_argument("--images", type=int, default=64, help="calibration pictures (default: 64)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--rows", type=int, default=512, help="inputs that are learned from (default: 512)")
    parser.add_argument("--groups", type=int, default=20, help="timestep groups of static activations "
                        "(default: 20, or as many as there are steps)")
    parser.add_argument("--iterations", type=int, default=600, help="of scaling a layer, at most (default: 600)")
    parser.add_argument("--rounding-iterations", type=int, default=1500, help="of rounding a block (default: 1500)")
    parser.add_argument("--directory", metavar="DIR", help="where unfinished work is kept (default: the cache)")
    placement_arguments(parser, measures=True)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Calibrate, save, and say what was found and what it took."""
    from engine.calibrate.allocation import preset_recipe
    from engine.calibrate.channels import channel_report, report_path, save_report
    from engine.calibrate.dmq import Calibrated, calibrate
    from engine.core.recipe import load_recipe, save_recipe, sizes
    from engine.models.structure import read_structure

    plan = plan_of(args)
    new_file(args.out)
    allocation = load_recipe(args.recipe) if args.recipe else preset_recipe(
        read_structure(args.model), args.preset, args.exclude, args.weights)
    model = opened(args)
    _check_groups(model, plan)
    directory = Path(args.directory) if args.directory else None
    events = followed(calibrate(model, allocation, plan, directory=directory), args.method)
    found = next(e for e in events if isinstance(e, Calibrated))
    report = channel_report(found)
    if report is not None:
        save_report(report_path(model.structure, report.tables), report)
    save_recipe(args.out, found.recipe, model.structure)
    notes = [*_kept_outliers(model, args, found), *_kept_preset(model, args, found)]
    result = {"out": args.out, "recipe": found.recipe.hash, **_files(model, found), **_figures(found),
              **_left_out(model, allocation, plan, found), "notes": notes,
              "sizes": sizes(model.structure, found.recipe),
              "stages": {k: {"seconds": s, "peak_mb": m} for k, (s, m) in found.stages.items()}}
    return result, _text(args.out, result, found)


def plan_of(args: argparse.Namespace) -> DmqPlan:
    """The plan that the arguments ask for.

    Raises:
        InputError: a number out of range.
    """
    from engine.calibrate.adaround import RoundingPlan
    from engine.calibrate.capture import CapturePlan
    from engine.calibrate.dmq import DmqPlan
    from engine.calibrate.les import LesPlan
    from engine.calibrate.pts import ShiftPlan
    from engine.calibrate.rows import RowsPlan

    if not 2 <= args.images <= 4096:
        raise InputError(f"--images must be from 2 to 4096, got {args.images}.")
    scaling = rounding = shifts = None
    if args.method != "ranges" and args.scaling != "none":
        scaling = LesPlan(method=args.scaling, iterations=args.iterations, weighting=args.weighting)
    if args.method == "dmq" and args.rounding == "adaround":
        rounding = RoundingPlan(iterations=args.rounding_iterations)
    if args.method == "dmq" and args.shifts != "none" and args.scheme == "static":
        shifts = ShiftPlan(choose=args.shifts, where=args.where)
    return DmqPlan(scaling, rounding, args.scheme, shifts, args.groups, RowsPlan(count=args.rows),
                   replace(CapturePlan(), images=args.images, steps=args.steps))


def _check_groups(model: Model, plan: DmqPlan) -> None:
    """The default number is cut to what there is; one that was asked for is not.

    Raises:
        InputError: more groups than sampling steps.
    """
    from engine.calibrate.capture import calibration_request
    from engine.calibrate.ranges import GROUPS

    steps = calibration_request(model, plan.capture).steps or 0
    if plan.groups != GROUPS and plan.groups > steps:
        raise InputError(f"--groups must be from 1 to {steps}, the sampling steps, got {plan.groups}; ask for fewer "
                         f"groups or more --steps.")


def _kept_outliers(model: Model, args: argparse.Namespace, found: Calibrated) -> list[str]:
    """Outlier scores come with the ranges, of the layers that are quantized; they take no fuller one's place.

    Returns:
        What to say of it: nothing, or one line.
    """
    from engine.calibrate.outliers import outlier_scores
    from engine.providers.files import find_scores, save_scores, scores_path

    if found.ranges is None:
        return []
    command = f"python -m engine calibrate {args.model} --method {args.method}"
    scores = outlier_scores(model.structure, found.ranges, command)
    known = find_scores(model.structure).get(scores.provider)
    if known and (len(scores.layers) < len(known.layers) or scores.trust.images < known.trust.images):
        return [f"The known {scores.provider} scores are left, of {len(known.layers)} layers and {known.trust.images} "
                f"images: this calibration looked at {len(scores.layers)} layers and {scores.trust.images} images."]
    save_scores(scores_path(model.structure, scores.provider), scores)
    return []


def _kept_preset(model: Model, args: argparse.Namespace, found: Calibrated) -> list[str]:
    """A preset is offered before the shipped one of its name, so only a run at the default settings becomes one.

    Returns:
        What to say of it: nothing, or one line.
    """
    from engine.calibrate.presets import save_preset

    if args.method != "dmq" or args.recipe:
        return []
    usual = argparse.ArgumentParser()
    arguments(usual)
    others = [f"--{n.replace('_', '-')}" for n in SETTINGS if getattr(args, n) != usual.get_default(n)]
    if others:
        return [f"Not made the calibrated preset {args.preset.upper()}, because {', '.join(others)} "
                f"{'is' if len(others) == 1 else 'are'} not at the default; {args.out} holds it."]
    save_preset(model.structure, args.preset.upper(), found.recipe)
    return []


def _files(model: Model, found: Calibrated) -> dict[str, Any]:
    from engine.live.tables import tables_path
    from engine.live.weightsets import weight_set_path

    return {
        "weights": str(weight_set_path(model.structure, found.weights.id)) if found.weights else None,
        "tables": str(tables_path(model.structure, found.tables.id)) if found.tables else None,
    }


def _figures(found: Calibrated) -> dict[str, Any]:
    scalings = [s for s in found.scalings.values() if s.before]
    learned = [r for r in found.roundings.values() if r.iterations]
    return {
        "layers": len(found.recipe.options),
        "scaled": sum(s.accepted for s in scalings), "scaling_refused": sum(not s.accepted for s in scalings),
        "blocks": len(learned), "blocks_learned": sum(r.accepted for r in learned),
        "shifted": sum(s.accepted for s in found.shifts.values()), "shifts_refused": sum(
            not s.accepted for s in found.shifts.values()),
        "agreement": float(sum(float(s.agreement.mean()) for s in found.shifts.values()) / max(len(found.shifts), 1)),
    }


def _left_out(model: Model, allocation: Recipe, plan: DmqPlan, found: Calibrated) -> dict[str, Any]:
    """What calibration could not do: layers by what kept them from it, and channels that are zero in every step."""
    from engine.calibrate.allocation import not_taken
    from engine.calibrate.problem import UNTOUCHED

    ranges, quantized = found.ranges, [x for x in model.structure.layers if x.choice in allocation.options]
    unseen = {x.name for x in quantized if x.choice in model.structure.unexecuted}
    unseen |= set(ranges.missing) if ranges else set()
    reasons: dict[str, list[str]] = {}
    for scaling in found.scalings.values():
        if scaling.tau is None:
            reasons.setdefault(scaling.reason, []).append(scaling.layer)
    untouched = [n for n in found.recipe.activations if allocation.option(n).is_untouched]
    return {
        "not_taken": not_taken(model.structure, allocation),
        "never_executed": [x.name for x in quantized if x.name in unseen],
        "inputs_left": [n for n in allocation.activations if n not in found.recipe.activations],
        "dead_channels": ranges.dead_channels() if ranges else {}, "not_scaled": reasons,
        "not_shifted": {UNTOUCHED: untouched} if plan.shifts and untouched else {},
    }


def _said(result: dict[str, Any]) -> list[str]:
    """A line for each kind of `_left_out`, with how many and which."""
    dead = result["dead_channels"]
    lists = {
        "in full precision, inputs too, because the weight method takes no such layers": result["not_taken"],
        "never executed, so nothing was calibrated": result["never_executed"],
        "inputs stay in full precision, because no range of them was seen": result["inputs_left"],
        f"input channels that are zero in every step, {sum(dead.values())} in all": list(dead),
        **{f"no scaling, because {reason}": names for reason, names in result["not_scaled"].items()},
        **{f"no shifts, because {reason}": names for reason, names in result["not_shifted"].items()},
    }
    return [f"{what} (layers: {len(names)}): {', '.join(names[:NAMED])}" + (", ..." if len(names) > NAMED else "")
            for what, names in lists.items() if names]


def _text(out: str, result: dict[str, Any], found: Calibrated) -> str:
    rows = [(stage, "unknown" if seconds is None else f"{seconds:.0f} s", "unknown" if peak is None else
             f"{peak:,.0f} MB") for stage, (seconds, peak) in found.stages.items()]
    said = (f"{out}: {result['sizes']['bits_per_weight']:.3f} stored bits per weight; {result['scaled']} of "
            f"{result['layers']} layers scaled, {result['blocks_learned']} of {result['blocks']} blocks with learned "
            f"rounding, {result['shifted']} layers with shifts (mean agreement {result['agreement']:.2f})")
    return "\n".join([said, *_said(result), *result["notes"]]) + "\n" + aligned(("stage", "time", "peak memory"), rows)
