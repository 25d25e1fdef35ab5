"""`study`: measure random recipes into one file, resume or extend it, merge shards, show or export what is there."""

from __future__ import annotations

import argparse
import functools
import sys
from typing import Any

from engine.cli.progress import progress_flag, told
from engine.core.errors import StudyError

DEFAULT_TRIALS = 100


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of all four forms; which one is meant stands first."""
    parser.usage = ("%(prog)s MODEL --db FILE [options]\n       %(prog)s merge TARGET SHARD [SHARD ...] [--mixed]\n"
                    "       %(prog)s show FILE [--metric NAME]\n       %(prog)s export FILE --out TABLE")
    # Files may stand before or after the options.
    strict = parser.parse_known_args
    parser.parse_known_args = functools.partial(_intermixed, parser, strict)  # type: ignore[method-assign]
    parser.add_argument("what", metavar="MODEL | merge | show | export", help="a model to measure, or what to do")
    parser.add_argument("files", nargs="*", metavar="FILE", help="of merge, show and export")
    parser.add_argument("--db", metavar="FILE", help="the study's file; resumed if it exists")
    parser.add_argument("--trials", type=int, metavar="N", default=DEFAULT_TRIALS,
                        help=f"trials of the preset in all; raise it to extend (default {DEFAULT_TRIALS})")
    parser.add_argument("--images", type=int, metavar="M", help="images per trial (default 64)")
    parser.add_argument("--preset", default="paper-6", help="paper-6 (or paper-6:0.2-0.8), wide; several with commas")
    parser.add_argument("--minutes", type=float, metavar="T", help="begin no trial later than T minutes after loading")
    parser.add_argument("--seed", type=int, default=0, help="of the recipes")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--workers", type=int, default=1, metavar="K", help="processes, or actors on a cluster")
    parser.add_argument("--threads", type=int, metavar="T", help="threads per worker")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="only trials I, I+N, I+2N ...; I from 0")
    parser.add_argument("--ray", default="", metavar="ADDRESS", help="a Ray cluster, such as auto or ray://host:10001")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--batch", type=int, help="images generated together")
    parser.add_argument("--extractor", default="", help="feature space; default: the CLIP beside the model")
    parser.add_argument("--store", default="", metavar="DIR", help="quantized layers; default: the user's cache")
    parser.add_argument("--no-graphs", action="store_true", help="call the denoiser plainly on a GPU (slower)")
    parser.add_argument("--retry-failed", action="store_true", help="measure failed trials again")
    parser.add_argument("--mixed", action="store_true", help="continue or merge across machines and versions")
    parser.add_argument("--metric", default="", help="the label whose reliability is shown (default psnr)")
    progress_flag(parser)
    parser.add_argument("--out", metavar="TABLE", help="of export: .csv or .parquet")


def _intermixed(parser: argparse.ArgumentParser, strict: Any, args: Any = None, namespace: Any = None) -> Any:
    parser.parse_known_args = strict  # type: ignore[method-assign]
    return parser.parse_known_intermixed_args(args, namespace)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """One of the four forms."""
    forms = {"merge": _merge, "show": _show, "export": _export}
    return forms.get(args.what, _measure)(args)


def _measure(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from engine.study.job import DEFAULT_IMAGES, Job
    from engine.study.runner import Plan

    if not args.db or args.files:
        raise StudyError("A study needs a model and a file: study MODEL --db FILE.")
    job = Job(args.what, DEFAULT_IMAGES if args.images is None else args.images, args.steps, None, args.device,
              args.threads, args.batch, args.extractor, args.store, not args.no_graphs)
    plan = Plan(job, args.trials, args.preset, args.seed, args.workers, args.ray, _shard(args.shard),
                args.retry_failed, args.mixed, None if args.minutes is None else 60 * args.minutes)
    done, failed, busy_s, generating_s = _follow(args.db, plan, args.progress)
    result, text = _summary(args.db, args.metric)
    result.update(measured_now=done, failed_now=failed)
    line = f"{done} trials measured"
    if done:
        result.update(overhead=1 - generating_s / busy_s, seconds_per_trial=busy_s / done)
        line += f", {result['seconds_per_trial']:.2f} s each, {100 * result['overhead']:.1f} % beyond generating"
    return result, f"{line}{f', {failed} failed' if failed else ''}\n{text}"


def _follow(path: str, plan: Any, telling: bool) -> tuple[int, int, float, float]:
    """Run with a bar on stderr; counts done and failed, seconds in trials and seconds generating."""
    from tqdm import tqdm

    from engine.study.runner import run_study

    done, failed, busy_s, generating_s = 0, 0, 0.0, 0.0
    told(telling, "loading")
    with tqdm(desc="loading", unit="trial", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:
        for record in run_study(path, plan):
            told(telling, record.event, done=record.done, total=record.total, left_s=record.eta_s,
                 trial=record.trial.number if record.trial else None, error=record.error)
            if record.event == "ready":
                bar.reset(record.total)
                bar.set_description("measuring")
            if record.measurement:
                done += 1
                busy_s += record.measurement.duration_s
                generating_s += record.measurement.generating_s
            if record.event == "failed":
                failed += 1
                number = record.trial.number if record.trial else "?"
                bar.write(f"trial {number} failed: {record.error}", file=sys.stderr)
            bar.update(record.done - bar.n)
    return done, failed, busy_s, generating_s


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit()):
        raise StudyError(f"--shard takes I/N such as 0/4, got {text[:20]!r}.")
    return int(index), int(count)


def _merge(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from engine.study.merge import merge

    files = [*([args.db] if args.db else []), *args.files]
    if len(files) < 2:
        raise StudyError("Name the target and its shards: study merge TARGET SHARD [SHARD ...].")
    target = files[0]
    merged = merge(target, files[1:], mixed=args.mixed)
    return ({"added": merged.added, "known": merged.known, "trials": merged.trials},
            f"{target}: {merged.added} trials taken over, {merged.known} known before, {merged.trials} in all")


def _show(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    return _summary(_one_file(args), args.metric)


def _export(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from engine.study.export import export
    from engine.study.storage import read_study

    if not args.out:
        raise StudyError("Name the table to write: study export FILE --out TABLE.csv (or .parquet).")
    with read_study(_one_file(args)) as study:
        rows = export(study, args.out)
    return {"rows": rows, "out": args.out}, f"{rows} trials in {args.out}"


def _one_file(args: argparse.Namespace) -> str:
    files = [*([args.db] if args.db else []), *args.files]
    if len(files) != 1:
        raise StudyError(f"study {args.what} takes one study file, got {len(files)}.")
    return str(files[0])


def _summary(path: str, metric: str) -> tuple[dict[str, Any], str]:
    from engine.study.summary import summary, summary_text

    result = summary(path, metric)
    return result, summary_text(result)
