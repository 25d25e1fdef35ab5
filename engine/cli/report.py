"""`report`: a study, its predictor and what was proved as one standalone HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    """The study and the page."""
    parser.add_argument("db", metavar="DB", help="a study file")
    parser.add_argument("--out", metavar="FILE", help="the page (default: DB with .html)")
    parser.add_argument("--model", default="", metavar="MODEL", help="where the study's model lies (default: the name "
                        "it was measured under)")
    parser.add_argument("--formula", metavar="F", help="what is plotted (default: the predictor's target)")
    parser.add_argument("--kept", metavar="DIR", help="what was proved (default: the evidence among the assets)")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Read, draw, write."""
    from engine.advisor import find_advisor
    from engine.core.errors import StudyError
    from engine.core.files import MAX_JSON_BYTES, read_json, write_atomic
    from engine.core.places import assets_dir
    from engine.evidence.html import report
    from engine.evidence.scale import Places
    from engine.evidence.stages import VERSION
    from engine.evidence.studied import DEFAULT_FORMULA, read_studied
    from engine.study.storage import read_study
    from engine.study.summary import summary

    studied = read_studied(args.db, args.formula or DEFAULT_FORMULA, model=args.model)
    with read_study(args.db) as study:
        presets = [trial.preset for trial in study.trials()]
    advisor = find_advisor(studied.structure)
    if advisor is not None and args.formula is None and advisor.formula != studied.table.formula:
        studied = read_studied(args.db, advisor.formula, model=args.model)
    kept = Path(args.kept) if args.kept else assets_dir() / "evidence"
    file = Places(assets_dir(), kept).file(studied, "evidence.json")
    found = read_json(file, StudyError, 4 * MAX_JSON_BYTES) if file.is_file() else None
    if found is not None and found.get("version") != VERSION:
        raise StudyError(f"{file.name} was written by another version of this program; run evidence again.")
    out = args.out or str(Path(args.db).with_suffix(".html"))
    write_atomic(out, report(studied, presets, summary(args.db), advisor, found))
    result = {"out": out, "trials": len(presets), "predictor": advisor is not None, "evidence": found is not None}
    return result, f"{out}: {len(presets)} trials" + ("" if advisor else ", no predictor yet") + (
        "" if found else ", nothing proved yet")
