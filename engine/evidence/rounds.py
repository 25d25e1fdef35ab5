"""Rounds of improvement: what each round's evidence said, kept in a file of its own, and the page's before and after.

Round 0 is the study as drawn at random; round k also knows the trials drawn near the best recipes k times. Every round
is judged on final images that no other round has used, so that a later round cannot be fitted to what judged it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.core.errors import StudyError
from engine.core.files import read_json, write_json
from engine.core.places import model_stem
from engine.evidence.markdown import table
from engine.evidence.scale import Found
from engine.evidence.studied import near_round
from engine.evidence.verdict import LABEL
from engine.study.storage import read_study
from engine.study.trial import State

Rows = Sequence[Mapping[str, Any]]


def round_of(db: Path, first: int | None = None) -> int:
    """The last round that the finished trials of a study (only the first so many) hold.

    Raises:
        StudyError: see `read_study`.
    """
    with read_study(db) as study:
        return max((near_round(trial.preset) for trial in study.trials()[:first]), default=0)


def open_round(db: Path, kept: Path, model: str, identity: str) -> int:
    """The round that trials near the best are drawn for now: the last, while any of its trials waits or its evidence
    is not kept, so that what was interrupted goes on; else the one after.

    Raises:
        StudyError: see `read_study`.
    """
    with read_study(db) as study:
        trials = [t for t in study.trials(None) if near_round(t.preset)]
    last = max((near_round(t.preset) for t in trials), default=0)
    waiting = any(near_round(t.preset) == last and t.state in (State.WAITING, State.RUNNING) for t in trials)
    finished = not waiting and (not last or round_file(kept, model, identity, last).is_file())
    return last + finished


def round_file(kept: Path, model: str, identity: str, number: int) -> Path:
    """Where the evidence of one round is kept."""
    return kept / f"{model_stem(model, identity)}.evidence-round-{number}.json"


def earlier(kept: Path, model: str, identity: str, number: int) -> list[Found]:
    """The evidence of the rounds before this one, as far as there is any.

    Raises:
        StudyError: a file is damaged.
    """
    paths = [round_file(kept, model, identity, k) for k in range(number)]
    return [read_json(path, StudyError) for path in paths if path.is_file()]


def first_unused(before: Sequence[Found]) -> int:
    """Index of the first final image that judged none of these rounds."""
    return max((f["scale"]["first"] + f["scale"]["images"] for f in before), default=0)


def keep_round(kept: Path, found: Found) -> None:
    """Write what a round found beside what others did."""
    write_json(round_file(kept, found["model"], found["identity"], found["round"]), found)


def rounds(found: Mapping[str, Any]) -> str:
    """The chapter that compares the rounds; "" where there was but one.

    Args:
        found: the evidence of the last round, with that of those before as "rounds".
    """
    every = [*found.get("rounds", ()), found]
    if len(every) < 2:
        return ""
    budgets = dict.fromkeys(b["budget"] for one in every for b in one["contest"]["budgets"])
    lines = ["### Rounds\n\nAfter each round of trials near the best recipes everything was fitted and measured again, "
             "on final images of its own. Ours in dB with its 95 % interval, and ours less the best of all the others "
             "on the same images. Levels of different rounds are of different images; differences can be compared.",
             table(("round", "trials", "of these near the best", "final images", "in use", "within bins"),
                    [_standing(one) for one in every]),
             table(("budget", *(f"round {one['round']}" for one in every)),
                    [(name, *(_cell(one, name) for one in every)) for name in budgets])]
    last = every[-1]
    if last["scale"]["first"] + last["scale"]["images"] > last["contest"]["prompts"]:
        lines.append(f"There are {last['contest']['prompts']} final prompts: beyond them, prompts of earlier rounds "
                     f"come again, with seeds of their own.")
    return "\n\n".join(lines)


def _standing(one: Mapping[str, Any]) -> tuple[str, ...]:
    presets, scale = one["study"]["presets"], one["scale"]
    near = sum(p["trials"] for p in presets if near_round(p["preset"]))
    figures = (one["report"]["quality"] or one["report"]["target"])[one["kind"]]
    within = figures["spearman_in_bins"]
    return (str(one["round"]), str(one["study"]["trials"]), str(near),
            f"{scale['first'] + 1} to {scale['first'] + scale['images']}", str(one["kind"]),
            "-" if within is None else f"{within:.3f}")


def _cell(one: Mapping[str, Any], budget: str) -> str:
    """Ours at a budget, and ours less the contender that came nearest."""
    rows: Rows = next((b["rows"] for b in one["contest"]["budgets"] if b["budget"] == budget), ())
    ours = next((r for r in rows if r["contender"] == "ours"), None)
    if ours is None:
        return "-"
    value, low, high = ours["metrics"]["psnr"]
    text = f"{value:.2f} ({low:.2f} to {high:.2f})"
    others = [r for r in rows if r["contender"] != "ours"]
    if not others:
        return text
    nearest = min(others, key=lambda r: float(r["differences"][LABEL][0]))
    mean, low, high = nearest["differences"][LABEL]
    return f"{text}; {mean:+.2f} ({low:+.2f} to {high:+.2f}) on {nearest['contender']}"
