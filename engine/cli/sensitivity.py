"""`sensitivity`: scores per layer and option by a named provider."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.cli import trajectories
from engine.cli.opening import new_file, opened, placement_arguments
from engine.cli.progress import followed
from engine.cli.table import aligned
from engine.core.errors import InputError

TOP = 12
ACTIVATION_ERROR = "activation-error"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Model, provider and what it measures."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--provider", required=True, choices=sorted([*PROVIDERS, ACTIVATION_ERROR]))
    parser.add_argument("--out", metavar="FILE", help="scores JSON (default: the cache)")
    parser.add_argument("--node-data", metavar="FILE", help="the scores for Model Explorer too (node data JSON)")
    parser.add_argument("--options", nargs="+", metavar="OPTION", help="options to score (default: the provider's own)")
    parser.add_argument("--levels", nargs="+", default=["block", "layer"], choices=["stage", "block", "unit", "layer"],
                        help="what is quantized alone (measured only)")
    parser.add_argument("--around", nargs="+", default=["fp16", "uaq-4"], metavar="OPTION",
                        help="what everything else is at while one is measured (measured only)")
    parser.add_argument("--images", type=int, help="calibration pictures (default: orthogonality 64, cumulative 8, "
                        "the others 16)")
    parser.add_argument("--partial", metavar="PATH",
                        help="kept while working, to resume: JSON lines (measured, cumulative), a folder (the others)")
    trajectories.arguments(parser)
    placement_arguments(parser, measures=True)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Score, save, and show the most fragile layers."""

    command = f"python -m engine sensitivity {args.model} --provider {args.provider}"
    if args.images is not None and not 1 <= args.images <= 4096:
        raise InputError(f"--images must be from 1 to 4096, got {args.images}.")
    if args.out:
        new_file(args.out)
    else:
        _check_narrower(args)
    model = opened(args)
    if args.provider == ACTIVATION_ERROR:
        return trajectories.activation_error(model, args)
    return _shown(model, args, list(PROVIDERS[args.provider](model, args, command)))


def _check_narrower(args: argparse.Namespace) -> None:
    """Scores without a file of their own are the model's from then on; a trial run must not take a fuller one's place.

    Raises:
        InputError: what is at hand knows more options, more images, or (unlike this run) layers.
    """
    from engine.core.option import parse_option
    from engine.models.structure import read_structure
    from engine.providers.files import find_scores

    found = find_scores(read_structure(args.model)).get(args.provider)
    if found is None:
        return
    known = {o for row in found.layers.values() for o in row}
    lost = known - {str(parse_option(o)) for o in args.options} - {"fp16"} if args.options else set()
    images = int(found.about.get("images", "0") or 0)
    fewer = images if args.images is not None and args.images < images else 0
    layers = args.provider == "measured" and "layer" not in args.levels and bool(found.layers)
    if lost or fewer or layers:
        more = f"{len(known)} options" if lost else f"{images} images" if fewer else "single layers"
        raise InputError(f"There are {args.provider} scores of {args.model} with {more}, and these would stand before "
                         f"them; name a file of their own with --out.")


def _shown(model: Any, args: argparse.Namespace, found: list[Any]) -> tuple[dict[str, Any], str]:
    from engine.core.option import parse_option
    from engine.providers.files import save_scores, scores_path

    out = Path(args.out) if args.out else None
    for index, scores in enumerate(found):
        path = out if out and not index else _beside(out, scores.provider) if out else scores_path(
            model.structure, scores.provider)
        save_scores(path, scores)
    first = found[0]
    table, kind = (first.layers, "layer") if first.layers else (first.blocks, "block")
    # The option most layers were scored at; of several, the narrowest tells most.
    known = [o for o in map(parse_option, {o for t in table.values() for o in t}) if not o.is_untouched]
    counts = {str(o): sum(str(o) in t for t in table.values()) for o in known}
    option = str(min(known, key=lambda o: (-counts[str(o)], o.bits, o.method)))
    ranked = sorted(((t[option], n) for n, t in table.items() if option in t), reverse=True)
    if args.node_data:
        from engine.export.node_data import save_node_data

        save_node_data(args.node_data, model.structure, first, option)
    result = {"provider": first.provider, "model": args.model, "unit": first.unit, "scores": first.layers,
              "blocks": first.blocks, "about": first.about, "providers": [s.provider for s in found],
              "note": first.trust.note}
    text = (f"{first.provider}, {first.unit}: {len(table)} {kind}s; most fragile at {option}:\n"
            + aligned((kind, "score"), [(n, v) for v, n in ranked[:TOP]])
            + (f"\n{first.trust.note}" if first.trust.note else ""))
    return result, text


def _beside(out: Path, provider: str) -> Path:
    stem = out.name.removesuffix(".json")
    return out.with_name(f"{stem}.{provider}.json")


def _options(args: argparse.Namespace) -> Any:
    from engine.core.option import parse_option

    return tuple(parse_option(t) for t in args.options) if args.options else None


def _weight_error(model: Any, args: argparse.Namespace, command: str) -> Iterator[Any]:
    from engine.core.record import Scores
    from engine.providers.weight_error import weight_error

    events = followed(weight_error(model, _options(args), command=command), "weight error")
    return (event for event in events if isinstance(event, Scores))


def _measured(model: Any, args: argparse.Namespace, command: str) -> Iterator[Any]:
    from engine.core.option import FP16, parse_option
    from engine.core.record import Scores
    from engine.providers.measured import IMAGES, Plan, measure

    options = _options(args)
    images = args.images or IMAGES
    around = tuple(None if text == str(FP16) else parse_option(text) for text in args.around)
    chosen = {"options": options} if options else {}
    plan = Plan(levels=tuple(args.levels), images=images, around=around, steps=args.steps, **chosen)
    said = " ".join(map(str, plan.options))
    command += (f" --options {said} --levels {' '.join(args.levels)} --around {' '.join(args.around)} "
                f"--images {images}")
    partial = Path(args.partial) if args.partial else None
    events = followed(measure(model, plan, partial=partial, command=command), "measuring")
    return (event for event in events if isinstance(event, Scores))


def _cumulative(model: Any, args: argparse.Namespace, command: str) -> Iterator[Any]:
    from engine.core.record import Scores
    from engine.providers.cumulative import IMAGES, PALETTES, STEPS, Pass, cumulative

    plan = Pass(_options(args) or PALETTES, args.images or IMAGES, args.steps or STEPS)
    command += f" --options {' '.join(map(str, plan.options))} --images {plan.images} --steps {plan.steps}"
    partial = Path(args.partial) if args.partial else None
    events = followed(cumulative(model, plan, partial=partial, command=command), "Apple's signal")
    return (event for event in events if isinstance(event, Scores))


def _outliers(model: Any, args: argparse.Namespace, command: str) -> Iterator[Any]:
    from engine.calibrate.capture import CapturePlan
    from engine.calibrate.outliers import outliers
    from engine.core.record import Scores
    from engine.providers.measured import IMAGES

    images = args.images or IMAGES
    found = outliers(model, CapturePlan(images=images, steps=args.steps), command=f"{command} --images {images}")
    return (event for event in followed(found, "outliers") if isinstance(event, Scores))


# name -> (model, arguments, command line) -> iterator of Scores
PROVIDERS: dict[str, Callable[[Any, argparse.Namespace, str], Iterator[Any]]] = {
    "weight-error": _weight_error,
    "measured": _measured,
    "cumulative": _cumulative,
    "orthogonality": trajectories.orthogonality,
    "outliers": _outliers,
}
