"""`fit`: learn sensitivity from a study; prints held-out figures per hop, beside the controls on the same folds."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from engine.cli.table import aligned
from engine.core.errors import InputError, StudyError

DEFAULT_FORMULA = "-10*log10(image_mse)"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The study, the target and what to fit."""
    parser.add_argument("db", metavar="DB", help="a study file")
    parser.add_argument("--model", metavar="MODEL", help="where the study's model lies (default: the name it was "
                        "measured under)")
    parser.add_argument("--formula", default=DEFAULT_FORMULA, help="target, higher = better, over the study's metrics "
                        f"and bits, such as '-image_mse - 0.1*bits' (default {DEFAULT_FORMULA})")
    parser.add_argument("--kinds", nargs="+", default=["damage", "gnn", "guided"], choices=["damage", "gnn", "guided"],
                        help="what to fit beside the controls; both also give a blend")
    parser.add_argument("--loss", default="hybrid", choices=["spearman", "ndcg", "hybrid", "none"],
                        help="ranking loss of the networks")
    parser.add_argument("--epochs", type=int, help="of each network, at most")
    parser.add_argument("--presets", nargs="+", metavar="P", help="only trials of these presets")
    parser.add_argument("--trials", type=int, metavar="N", help="only the first N trials (for learning curves)")
    parser.add_argument("--weight-errors", metavar="FILE", help="scores file (default: found by the model's identity)")
    parser.add_argument("--out", metavar="STEM", help="predictor files STEM.json and STEM.safetensors "
                        "(default: in the cache, where the explorer looks)")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Fit, save predictor and scores, note the figures in the study, print them."""
    from engine.analysis.additive import distil, table_scores
    from engine.analysis.fitting import fit_predictor
    from engine.analysis.predictor import Kind
    from engine.analysis.predictor_files import save_predictor
    from engine.analysis.trials import subject_of, trial_table
    from engine.core.jsonrecord import to_json
    from engine.providers.files import save_scores, scores_path

    structure, trials, images = _read(args)
    subject = subject_of(structure, _weight_errors(args, structure), trials)
    table = trial_table(subject, trials, args.formula)
    about = {"study": Path(args.db).name, "images": str(images), "trials": str(len(table))}
    start = time.perf_counter()
    predictor = _followed(fit_predictor(table, _training(args), [Kind(k) for k in args.kinds], about))
    seconds = time.perf_counter() - start
    stem = args.out or str(_cached(structure))
    save_predictor(stem, predictor)
    found = scores_path(structure, "predictor")
    save_scores(found, table_scores(predictor, distil(predictor, table.picks)))
    figures = _figures(predictor)
    noted = _note(args.db, to_json(predictor.training), figures)
    result = {**figures, "report": to_json(predictor.report), "seconds": seconds, "out": stem, "scores": str(found),
              "noted": noted}
    return result, _text(predictor, seconds, stem, str(found))


def _read(args: argparse.Namespace) -> tuple[Any, list[Any], int]:
    """The model's structure, its measured recipes, and images per trial."""
    from engine.analysis.trials import Labelled
    from engine.models.structure import read_structure
    from engine.study.storage import read_study

    with read_study(args.db) as study:
        protocol = study.protocol
        structure = read_structure(args.model or protocol.model)
        if structure.identity != protocol.identity:
            raise StudyError(f"{Path(args.db).name} was measured on {protocol.model} ({protocol.identity[:12]}), which "
                             f"is not {structure.model} ({structure.identity[:12] or 'no weights'}); name its model.")
        columns = {name: study.values(name) for name in study.metric_names()}
        kept = [t for t in study.trials() if not args.presets or t.preset in args.presets][:args.trials]
    trials = [Labelled(t.options, {n: column[t.id] for n, column in columns.items() if t.id in column}) for t in kept]
    return structure, trials, protocol.images


def _weight_errors(args: argparse.Namespace, structure: Any) -> Any:
    from engine.providers.files import check_scores, find_scores, load_scores

    if args.weight_errors:
        scores = load_scores(args.weight_errors)
        check_scores(scores, structure)
        return scores
    found = find_scores(structure)
    if "weight-error" not in found:
        raise InputError(f"The weight errors of {structure.model} are not at hand; make them with sensitivity "
                         f"{structure.model} --provider weight-error.")
    return found["weight-error"]


def _training(args: argparse.Namespace) -> Any:
    from dataclasses import replace

    from engine.analysis.losses import RankLoss
    from engine.analysis.training import Training

    if args.epochs is not None and args.epochs < 1:
        raise InputError(f"--epochs must be at least 1, got {args.epochs}.")
    chosen = Training(rank=RankLoss(args.loss), seed=args.seed)
    return chosen if args.epochs is None else replace(chosen, epochs=args.epochs)


def _followed(steps: Any) -> Any:
    """Run the fit with a bar on stderr."""
    from tqdm import tqdm

    from engine.analysis.predictor import Predictor
    from engine.analysis.training import Epoch

    with tqdm(desc="fitting", unit="epoch", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:
        for step in steps:
            if isinstance(step, Predictor):
                return step
            if isinstance(step, Epoch):
                bar.set_postfix_str(f"fold {step.fold + 1}, validation {step.validation:.3f}")
            bar.update()
    raise AssertionError("a fit ends with its predictor")


def _cached(structure: Any) -> Path:
    from engine.core.places import cache_dir

    return cache_dir() / "predictors" / f"{Path(structure.model).name}-{structure.identity[:8]}"


def _figures(predictor: Any) -> dict[str, Any]:
    """Held-out figures of the kind in use, as `study show` prints them."""
    best = (predictor.report.quality or predictor.report.target)[predictor.kind]
    return {"kind": str(predictor.kind), "formula": predictor.formula, "trials": predictor.report.trials,
            "spearman": best.spearman, "spearman_in_bins": best.spearman_in_bins, "kendall": best.kendall,
            "ndcg10": best.ndcg10, "mae": best.mae}


def _note(path: str, settings: dict[str, Any], figures: dict[str, Any]) -> bool:
    """Keep the figures in the study file; a file that is being written or is read-only stays as it is."""
    from engine.study.storage import open_study, read_study

    with read_study(path) as study:
        protocol = study.protocol
    try:
        with open_study(path, protocol) as study:
            study.record_predictor("ensemble", settings, figures)
    except StudyError:
        return False
    return True


def _text(predictor: Any, seconds: float, stem: str, scores: str) -> str:
    report = predictor.report
    lines = [f"{report.trials} trials, {report.folds} folds, {seconds:.0f} s, target {report.formula}; held out:"]
    for title, rows in (("target", report.target), ("quality alone (without bits)", report.quality)):
        if rows:
            lines += ["", title, aligned(
                ("", "spearman", "within 0.1 bits", "kendall", "ndcg@10", "mean error"),
                [(n, q.spearman, "-" if q.spearman_in_bins is None else f"{q.spearman_in_bins:.3f}", q.kendall,
                  q.ndcg10, q.mae) for n, q in rows.items()])]
    if report.hops:
        lines += ["", "spearman of the embedding norm, hops 0 to 4: " + "  ".join(f"{h:.3f}" for h in report.hops)]
    return "\n".join([*lines, "", f"in use: {predictor.kind}; predictor {stem}, scores {scores}"])
