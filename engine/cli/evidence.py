"""`evidence`: everything that is proved, from study files to one page; resumable, one recipe is lost at most."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.cli.fit import KINDS
from engine.core.errors import InputError

SAY_EVERY_S = 20.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """The studies, the scale, and where things go."""
    parser.add_argument("db", nargs="*", metavar="DB", help="study files (default: all of assets/studies)")
    parser.add_argument("--model", default="", metavar="MODEL", help="where the study's model lies (one study only)")
    parser.add_argument("--formula", metavar="F", help="target of the predictor (default: psnr)")
    parser.add_argument("--trials", type=int, metavar="N", help="only the first N trials of each study (a study that "
                        "is still growing would be learned from anew each time this is continued)")
    parser.add_argument("--images", type=int, default=256, help="of the final comparisons; a round's are others than "
                        "those of the rounds before")
    parser.add_argument("--judged", type=int, default=64,
                        help="calibration images that choose our candidate and the best random draw (among the "
                        "best of 16 images)")
    parser.add_argument("--switched", type=int, default=16, help="images of deletion and insertion curves; 0 = none")
    parser.add_argument("--signal", type=int, default=8, help="images of the signal of Apple's rule; 0 = leave it out")
    parser.add_argument("--signal-steps", type=int, default=1, metavar="N",
                        help="sampling steps of that signal (default: 1, as released; some schedulers need 2)")
    parser.add_argument("--steps", type=int, help="of the sampler (default: the model's)")
    parser.add_argument("--epochs", type=int, help="of the networks, at most")
    parser.add_argument("--sizes", nargs="*", type=int, metavar="N", help="of the learning curve (default 50 to 400)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS,
                        help="predictors (default: all)")
    parser.add_argument("--timed", type=int, default=6, help="trials that one and two workers are timed on; 0 = none")
    parser.add_argument("--near", type=int, default=0, metavar="N",
                        help="first measure N more trials around the best recipes so far, into the study")
    parser.add_argument("--round", type=int, metavar="K", help="number of that round (default: the last one while it "
                        "is unfinished or not proved, else the next)")
    parser.add_argument("--minutes", type=float, metavar="T",
                        help="stop after T minutes; the same command goes on from there")
    parser.add_argument("--assets", metavar="DIR", help="gets predictors and scores (default: the shipped assets)")
    parser.add_argument("--kept", metavar="DIR", help="gets what was measured (default: ASSETS/evidence)")
    parser.add_argument("--out", default="docs/evidence.md", metavar="FILE", help="the page")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Prove, study by study; the page is written anew after each."""
    from dataclasses import replace

    import torch

    from engine.core.files import write_atomic
    from engine.core.places import assets_dir
    from engine.evidence.page import page
    from engine.evidence.rounds import earlier, first_unused, keep_round, round_of
    from engine.evidence.scale import Places
    from engine.evidence.stages import prove
    from engine.evidence.studied import DEFAULT_FORMULA

    _check(args)
    assets = Path(args.assets) if args.assets else assets_dir()
    studies = [Path(p) for p in args.db] or sorted((assets / "studies").glob("*.sqlite"))
    if not studies:
        raise InputError(f"There is no study in {assets / 'studies'}; run one, or name a study file.")
    if args.model and len(studies) > 1:
        raise InputError("--model names where one study's model lies; name one study with it.")
    torch.set_num_threads(args.threads)
    places = Places(assets, Path(args.kept) if args.kept else assets / "evidence")
    formula = DEFAULT_FORMULA if args.formula is None else args.formula
    end = float("inf") if args.minutes is None else time.monotonic() + 60 * args.minutes
    found: list[Any] = []
    for db in studies:
        structure = _structure(db, args.model)
        if args.near:
            _near(args, db, places, structure)
        number = round_of(db, args.trials)
        before = earlier(places.kept, structure.model, structure.identity, number)
        scale = replace(_measured_already(_scale(args), structure), first=first_unused(before))
        steps = prove(db, places, scale, formula=formula, source=args.model, device=args.device, trials=args.trials)
        for step in said(steps, db.stem):
            if isinstance(step, dict):
                keep_round(places.kept, step | {"round": number})
                found.append(step | {"round": number, "rounds": before})
            elif time.monotonic() > end:
                return _answer(args, studies, found, f"stopped after {args.minutes:g} min within {db.name}; the same "
                                                     f"command goes on from there")
        write_atomic(args.out, page(found))
    return _answer(args, studies, found, "")


def _answer(args: argparse.Namespace, studies: list[Path], found: list[Any],
            stopped: str) -> tuple[dict[str, Any], str]:
    result = {"studies": [str(p) for p in studies], "out": args.out, "kinds": {f["model"]: f["kind"] for f in found},
              "rounds": {f["model"]: f["round"] for f in found}, "finished": not stopped}
    text = f"{args.out}: {len(found)} of {len(studies)} models" if found else "No model is finished yet"
    return result, text + (f"; {stopped}." if stopped else "")


def said(steps: Iterable[Any], title: str) -> Iterable[Any]:
    """Pass steps through; now and then a line on stderr says where the work stands and how long it will take."""
    last = 0.0
    for step in steps:
        doing = getattr(step, "doing", "")
        if doing and (time.monotonic() - last > SAY_EVERY_S or step.index == step.of > 0):
            last = time.monotonic()
            left = "" if step.seconds_left is None else f", {step.seconds_left / 60:.0f} min left in this stage"
            where = f" {step.index}/{step.of}" if step.of else ""
            print(f"{title}: {doing}{where}{left}", file=sys.stderr, flush=True)
        yield step


def _near(args: argparse.Namespace, db: Path, places: Any, structure: Any) -> None:
    """One round of trials around the best recipes."""
    from engine.core.places import model_stem
    from engine.evidence.near import drawn, measure_near
    from engine.evidence.rounds import open_round
    from engine.evidence.studied import DEFAULT_FORMULA
    from engine.study.storage import read_study

    scale, formula = _scale(args), DEFAULT_FORMULA if args.formula is None else args.formula
    number = args.round or open_round(db, places.kept, structure.model, structure.identity)
    print(f"{db.stem}: round {number} of trials near the best", file=sys.stderr, flush=True)
    path = places.kept / f"{model_stem(structure.model, structure.identity)}.near-{number}.json"
    steps = drawn(db, path, args.near, number, formula=formula, source=args.model, training=scale.training,
                  kinds=scale.kinds)
    draws = next(s for s in said(steps, db.stem) if isinstance(s, list))
    with read_study(db) as study:
        source = args.model or study.protocol.model
    begin = time.monotonic()
    for record in measure_near(db, source, draws):
        if record.event in ("done", "failed") and time.monotonic() - begin > SAY_EVERY_S:
            begin = time.monotonic()
            left = "" if record.eta_s is None else f", {record.eta_s / 60:.0f} min left"
            print(f"{db.stem}: trials near the best {record.done}/{record.total}{left}", file=sys.stderr, flush=True)


def _scale(args: argparse.Namespace) -> Any:
    from dataclasses import replace

    from engine.analysis.predictor import Kind
    from engine.analysis.training import Training
    from engine.evidence.scale import Scale
    from engine.providers.cumulative import Pass

    training = Training() if args.epochs is None else replace(Training(), epochs=args.epochs)
    scale = Scale(args.images, args.judged, args.switched, args.steps, training=training, timed=args.timed,
                  cumulative=Pass(images=args.signal, steps=args.signal_steps) if args.signal else None)
    if args.sizes is not None:
        scale = replace(scale, sizes=tuple(args.sizes))
    return scale if not args.kinds else replace(scale, kinds=tuple(Kind(k) for k in args.kinds))


def _structure(db: Path, model: str) -> Any:
    """Of the study's model.

    Raises:
        StudyError: no study; ModelError: its model is not here.
    """
    from engine.models.structure import read_structure
    from engine.study.storage import read_study

    with read_study(db) as study:
        name = study.protocol.model
    return read_structure(model or name)


def _measured_already(scale: Any, structure: Any) -> Any:
    """Without Apple's signal where the very same was saved beside the model: those scores are found like all others."""
    from dataclasses import replace

    from engine.providers.cumulative import PROVIDER
    from engine.providers.files import find_scores

    if scale.cumulative is None:
        return scale
    saved = find_scores(structure).get(PROVIDER)
    wanted = {"images": str(scale.cumulative.images), "steps": str(scale.cumulative.steps)}
    same = saved is not None and all(saved.about.get(k) == v for k, v in wanted.items())
    return replace(scale, cumulative=None) if same else scale


def _check(args: argparse.Namespace) -> None:
    for name, least in (("images", 2), ("judged", 1), ("switched", 0), ("signal", 0), ("signal_steps", 1), ("timed", 0),
                        ("near", 0), ("threads", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(args, name)}.")
    for name in ("round", "trials", "epochs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"--{name} must be at least 1, got {getattr(args, name)}.")
    if args.near and args.trials is not None:
        raise InputError("--near adds trials to the study and --trials would leave them out again; give one of them.")
    if args.minutes is not None and not args.minutes > 0:
        raise InputError(f"--minutes must be above 0, got {args.minutes:g}.")
    if any(n < 1 for n in args.sizes or ()):
        raise InputError("--sizes takes numbers of trials of at least 1.")
