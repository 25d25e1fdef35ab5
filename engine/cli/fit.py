"""`fit`: learn sensitivity from a study; prints held-out figures per hop, beside the controls on the same folds."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.cli.progress import progress_flag, told
from engine.cli.table import aligned
from engine.core.errors import InputError

# As words, so that arguments are read without torch; `engine.analysis.fitting.KINDS` are the same as records.
ADDITIVE, NETWORKS = ("damage", "anchored"), ("gnn", "guided")
KINDS = ADDITIVE + NETWORKS
GRADIENTS = ("saliency", "input-x-gradient")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The study, the target and what to fit."""
    parser.add_argument("db", metavar="DB", help="a study file")
    parser.add_argument("--model", default="", metavar="MODEL", help="where the study's model lies (default: the name "
                        "it was measured under)")
    parser.add_argument("--formula", metavar="F", help="target, higher = better, over the study's metrics and bits, "
                        "such as 'psnr - 0.1*bits' (default: psnr)")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS,
                        help="what to fit beside the controls; damage and a network also give a blend, anchored "
                        "needs layers that were measured alone")
    parser.add_argument("--loss", default="hybrid", choices=["spearman", "ndcg", "hybrid", "none"],
                        help="ranking loss of the networks")
    parser.add_argument("--ranked", default="parts", choices=["parts", "hops"],
                        help="norms the ranking loss orders: of hop 0 and of all blocks together, or of every hop over "
                        "all nodes, as the paper has it (default: parts)")
    parser.add_argument("--epochs", type=int, help="of each network, at most")
    parser.add_argument("--presets", nargs="+", default=[], metavar="P", help="only trials of these presets")
    parser.add_argument("--trials", type=int, metavar="N", help="only the first N trials")
    parser.add_argument("--weight-errors", default="", metavar="FILE", help="scores file (default: found by the "
                        "model's identity)")
    parser.add_argument("--out", metavar="DIR", help="folder whose predictors/ and scores/ get the files (default: the "
                        "cache, where the explorer looks; the assets folder ships them)")
    parser.add_argument("--no-overlays", action="store_true", help="write the predictor and its table alone")
    parser.add_argument("--attributions", nargs="+", default=[], choices=[*GRADIENTS, "ablation"], metavar="METHOD",
                        help="overlays beside Shapley values and integrated gradients, by Captum: "
                        f"{', '.join(GRADIENTS)} (of the networks), ablation")
    parser.add_argument("--seed", type=int, default=0)
    progress_flag(parser)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Fit, save predictor and scores, note the figures in the study, print them."""
    from dataclasses import replace

    from engine.analysis.library import predictor_stem
    from engine.analysis.predictor import Kind
    from engine.analysis.predictor_files import save_predictor
    from engine.core.jsonrecord import to_json
    from engine.core.places import assets_dir, cache_dir
    from engine.evidence.learned import figures_of, learn, note
    from engine.evidence.studied import DEFAULT_FORMULA, FIT_SECONDS, read_studied

    _check_attributions(args)
    formula = DEFAULT_FORMULA if args.formula is None else args.formula
    told(args.progress, "loading")
    studied = read_studied(args.db, formula, model=args.model, presets=args.presets, trials=args.trials,
                           weight_errors=args.weight_errors)
    start = time.perf_counter()
    predictor = _followed(learn(studied, _training(args), [Kind(k) for k in args.kinds]), args)
    told(args.progress, "scoring")
    seconds = time.perf_counter() - start
    predictor = replace(predictor, about={**predictor.about, FIT_SECONDS: f"{seconds:.0f}"})
    directory = Path(args.out) if args.out else cache_dir()
    stem = predictor_stem(studied.structure, directory)
    save_predictor(stem, predictor)
    written = _overlays(args, directory, predictor, studied)
    figures = figures_of(predictor)
    shipped = assets_dir() in Path(args.db).resolve().parents  # what was shipped stays as it is
    noted = not shipped and note(args.db, to_json(predictor.training), figures)
    result = {**figures, "report": to_json(predictor.report), "seconds": seconds, "out": str(stem),
              "scores": written, "noted": noted}
    text = _text(predictor, seconds, str(stem), written)
    return result, f"{text}; the figures are noted in {args.db}" if noted else text


def _check_attributions(args: argparse.Namespace) -> None:
    """Say before minutes go into a fit what it could not explain."""
    if args.attributions and args.no_overlays:
        raise InputError("--attributions asks for overlays and --no-overlays for none; leave one of them away.")
    gradients = [m for m in args.attributions if m in GRADIENTS]
    if gradients and not set(NETWORKS).intersection(args.kinds):
        raise InputError(f"--attributions {gradients[0]} follows gradients of a network; fit "
                         f"{' or '.join(NETWORKS)} too.")


def _overlays(args: argparse.Namespace, directory: Path, predictor: Any, studied: Any) -> list[str]:
    """Write the scores that colour the explorer; names of their files."""
    from engine.analysis.additive import table_scores
    from engine.analysis.attribution import Method
    from engine.evidence.learned import overlays
    from engine.providers.files import save_scores, scores_path

    found = [table_scores(predictor)] if args.no_overlays else overlays(
        predictor, studied.table.picks, [Method(m) for m in args.attributions])
    written = []
    for scores in found:
        path = scores_path(studied.structure, scores.provider, directory / "scores")
        save_scores(path, scores)
        written.append(str(path))
    return written


def _training(args: argparse.Namespace) -> Any:
    from dataclasses import replace

    from engine.analysis.losses import RankLoss
    from engine.analysis.training import Ranked, Training

    if args.epochs is not None and args.epochs < 1:
        raise InputError(f"--epochs must be at least 1, got {args.epochs}.")
    if args.trials is not None and args.trials < 1:
        raise InputError(f"--trials must be at least 1, got {args.trials}.")
    chosen = Training(rank=RankLoss(args.loss), ranked=Ranked(args.ranked), seed=args.seed)
    return chosen if args.epochs is None else replace(chosen, epochs=args.epochs)


def _followed(steps: Any, args: argparse.Namespace) -> Any:
    """Run the fit with a bar on stderr; each fold is as long as the networks that are fitted to it."""
    from tqdm import tqdm

    from engine.analysis.predictor import Predictor
    from engine.analysis.training import Epoch
    from engine.analysis.trials import FOLDS

    networks = len(set(NETWORKS).intersection(args.kinds))
    fold, before, last = 0, 0, 0
    with tqdm(desc="fitting", unit="epoch", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:
        for step in steps:
            if isinstance(step, Predictor):
                return step
            if isinstance(step, Epoch):
                before += step.number < last  # the next network of this fold
                last = step.number
                told(args.progress, "epoch", done=fold + (before + step.number / step.of) / networks, total=FOLDS)
                bar.set_postfix_str(f"fold {step.fold + 1}, validation {step.validation:.3f}")
            else:
                fold, before, last = step.number - 1, 0, 0
                told(args.progress, "fold", done=fold if networks else step.number, total=FOLDS)
            bar.update()
    raise AssertionError("a fit ends with its predictor")


def _figures(rows: Mapping[str, Any]) -> str:
    """Held-out figures of predictors, controls or hops as a table."""
    return aligned(("", "spearman", "within 0.1 bits and preset", "kendall", "ndcg@10", "mean error"),
                   [(n, q.spearman, "-" if q.spearman_in_bins is None else f"{q.spearman_in_bins:.3f}", q.kendall,
                     q.ndcg10, q.mae) for n, q in rows.items()])


def _text(predictor: Any, seconds: float, stem: str, scores: list[str]) -> str:
    report = predictor.report
    lines = [f"{report.trials} trials, {report.folds} folds, {seconds:.0f} s, target {report.formula}; held out:"]
    for title, rows in (("target", report.target), ("quality alone (without bits)", report.quality)):
        if rows:
            lines += ["", title, _figures(rows)]
    for kind, hops in (report.hop_quality or report.hop_target).items():
        names = [*(f"hop {h}" for h in range(len(hops) - 1)), "all blocks together"]
        own = "  ".join(f"{value:.3f}" for value in report.hops[kind])
        lines += ["", f"{kind}: {'quality alone' if report.hop_quality else 'target'} by the embedding norm of a hop",
                  _figures(dict(zip(names, hops, strict=True))),
                  f"spearman of the norms themselves, mean over folds, in this order: {own}"]
    written = f"predictor {stem}, {len(scores)} scores" + (f" in {Path(scores[0]).parent}" if scores else "")
    return "\n".join([*lines, "", f"in use: {predictor.kind}; {written}"])
