"""The final comparisons in words and tables: what everyone reached, ours less theirs, and what it cost them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.evidence.markdown import interval, table


def comparisons(found: Mapping[str, Any]) -> str:
    """The section of one model.

    Args:
        found: the evidence; its "contest" is read.
    """
    contest = found["contest"]
    own = "the predicted optimum, " + ("that of layers measured alone, " if contest["alone"] else "")
    lines = [f"### Final comparisons\n\n{contest['images']} unseen images. Ours is one of {contest['candidates']} "
             f"candidates: {own}and optima of the predictor's table shaken. Like the best of {contest['draws']} random "
             f"recipes it is chosen on calibration images: all on {contest['sifted']}, the best "
             f"{contest['shortlisted']} of a budget on {contest['judged']}. Uniform is the best that fits, chosen on "
             f"the final images. Floor of the distances (full precision, same prompts, other seeds): "
             + ", ".join(f"{m['name']} {m['value']:.4g}" for m in contest["floor"]) + "."]
    if contest["alone"]:
        lines.append("`measured, knapsack` solves for layers measured alone and is thereby one of our own candidates: "
                     "against it, ours shows what trials and choosing add, and no more. Of the {1} entries of its "
                     "table {0} were measured, the others are scaled by weight error."
                     .format(*contest["measured_alone"]))
    lines.append("Differences are ours less theirs on the same images, each in its metric's unit (PSNR and SQNR in dB; "
                 "SSIM, PSNR, SQNR and CLIP score: above 0 = ours is better; errors and distances: below 0), with 95 % "
                 "intervals; bold where ours is significantly worse. Each interval is its own: of a hundred even "
                 "comparisons about five would come out significant one way or the other. A forecast with a star is "
                 "of a recipe that no trial of its size came near: it is extrapolated.")
    for budget in contest["budgets"]:
        shared = f"; recipes of {budget['shares']}, only the uniform one is its own" if budget["shares"] else ""
        lines += [f"**{budget['budget']}** ({budget['bytes'] / 1e6:.3f} MB{shared})",
                  _standing(budget["rows"], contest["forecasts"]), _differences(budget["rows"]), _twins(budget["rows"]),
                  _dropped([d for d in contest["dropped"] if d["budget"] in (budget["budget"], budget["shares"])])]
    shown = {b["budget"] for b in contest["budgets"]}
    lines += [f"**{d['budget']}**: {_dropped([d])}" for d in contest["dropped"] if d["budget"] not in shown]
    lines.append(_summary(contest))
    return "\n\n".join(line for line in lines if line)


def _standing(rows: Sequence[Mapping[str, Any]], forecasts: Mapping[str, Any]) -> str:
    """What every contender reached, and what the predictor had said of it."""
    shown = list(dict.fromkeys(name for r in rows for name in r["metrics"]))
    return table(("", "MB", "psnr, forecast", *shown),
                 [(_name(r), f"{r['bytes'] / 1e6:.3f}", _forecast(forecasts.get(r["recipe"])),
                   *(interval(r["metrics"].get(name)) for name in shown)) for r in _ranked(rows)])


def _forecast(found: Sequence[Any] | None) -> str:
    return "-" if found is None else interval(found) + (" *" if found[3] else "")


def _differences(rows: Sequence[Mapping[str, Any]]) -> str:
    """Ours less every other contender, by every metric."""
    others = [r for r in _ranked(rows) if r["contender"] != "ours"]
    shown = list(dict.fromkeys(name for r in others for name in r["differences"]))
    return table(("ours less", *shown), [(_name(r), *(_apart(r, name) for name in shown)) for r in others])


def _apart(row: Mapping[str, Any], name: str) -> str:
    mean, low, high = row["differences"][name]
    digits = 2 if name in ("psnr", "latent_sqnr") else 4
    text = f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
    return f"**{text}**" if row["verdicts"][name] == "worse" else text


def _ranked(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(rows, key=lambda r: -r["metrics"]["psnr"][0])


def _name(row: Mapping[str, Any]) -> str:
    """A contender, with what it is where it is one of several."""
    note = f" ({row['note']})" if row["contender"] in ("ours", "uniform", "best of random") else ""
    return ("**ours**" if row["contender"] == "ours" else str(row["contender"])) + note


def _twins(rows: Sequence[Mapping[str, Any]]) -> str:
    """Who has the very recipe that is ours."""
    ours = next(r for r in rows if r["contender"] == "ours")
    same = [r["contender"] for r in rows if r is not ours and r["recipe"] == ours["recipe"]]
    return f"Ours is the same recipe as {' and '.join(f'`{name}`' for name in same)} here." if same else ""


def _dropped(dropped: Sequence[Mapping[str, Any]]) -> str:
    """Who has no recipe at a budget, and why."""
    return " ".join(f"Without a recipe here: {d['contender']} ({d['why'].rstrip('.')})." for d in dropped)


def _summary(contest: Mapping[str, Any]) -> str:
    lost = [f"{r['contender']} at {b['budget']}" for b in contest["budgets"] for r in b["rows"]
            if r["verdict"] == "worse" and r["contender"] != "ours"]
    equal = [(b["budget"], r["verdict"]) for b in contest["budgets"] if b["group"] == "equal" for r in b["rows"]
             if r["contender"] == "uniform"]
    by_others = sorted({(name, f"{r['contender']} at {b['budget']}") for b in contest["budgets"] for r in b["rows"]
                        for name, v in r["verdicts"].items() if v == "worse" and name != "psnr"})
    lines = ["Never significantly worse than any, by PSNR: " + (f"**no** ({', '.join(lost)})." if lost else "yes."),
             "By the other metrics: " + ("**no** (" + "; ".join(f"{name}: {where}" for name, where in by_others)
                                                + ")." if by_others else "yes."),
             "Significantly better than the uniform recipe of equal bytes: "
             + (", ".join(f"{name}: {'yes' if v == 'better' else '**no**'}" for name, v in equal) or "not measured")
             + "."]
    four = contest["four"]
    if four:
        mean, low, high = four["difference"]
        lines.append(f"{four['ours']} against uniform {four['uniform']} ({four['uniform_bytes'] / 1e6:.3f} MB): "
                     f"{four['ours_psnr']:.2f} and {four['uniform_psnr']:.2f} dB, difference {mean:+.2f} ({low:+.2f} "
                     f"to {high:+.2f}): {'as good' if four['verdict'] != 'worse' else '**not as good**'}.")
    lines.append(_efforts(contest["efforts"]))
    return "\n\n".join(lines)


def _efforts(efforts: Sequence[Mapping[str, Any]]) -> str:
    """What everyone had to measure, the most expensive first."""
    total: dict[str, int] = {}
    for e in efforts:
        total[e["contender"]] = total.get(e["contender"], 0) + e["recipes"] * e["images"] * e["steps"]
    rows = [(name, "all together" if what is None else what["what"],
             *(("", "", "") if what is None else (what["recipes"], what["images"], what["steps"])),
             f"{total[name] if what is None else what['recipes'] * what['images'] * what['steps']:,}")
            for name in sorted(total, key=lambda n: -total[n])
            for what in [None, *(e for e in efforts if e["contender"] == name)]]
    lines = ["What everyone had to measure for all budgets together, in image-steps (one sampler step of one image). "
             "Full precision's images are left out; uniform recipes, `size-only` and `weight-error` measure nothing.",
             table(("contender", "measured", "recipes", "images", "steps", "image-steps"), rows)]
    if total.get("threshold"):
        lines.append(f"Ours measured {total['ours'] / total['threshold']:.3g} times what Apple's rule did.")
    return "\n\n".join(lines)
