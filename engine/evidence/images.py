"""The stages that make images: Apple's signal, deletion and insertion curves, and the contest on the final images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from engine.advisor import Advisor
from engine.allocate.blocks import PAPER
from engine.analysis.predictor import Kind, Predictor
from engine.analysis.scoring import BlockScores, block_scores, operation_scores
from engine.core.errors import StudyError
from engine.core.files import read_json, write_json
from engine.core.jsonrecord import from_json, to_json
from engine.core.option import parse_option
from engine.core.recipe import Recipe, model_ref
from engine.core.record import Scores
from engine.evidence.agreement import BLOCKS, DEFAULT_ORDER, at_option, size_only
from engine.evidence.contest import (
    ALONE,
    CANDIDATES,
    DRAWS,
    MEASURED,
    OURS,
    RANDOM,
    Budget,
    Dropped,
    Entry,
    Sources,
    budgets,
    entries,
    fingerprint,
    fours,
)
from engine.evidence.effort import Effort, efforts
from engine.evidence.gauge import FULL, Gauge, Setting
from engine.evidence.scale import Places, Scale, Stage
from engine.evidence.studied import Studied
from engine.evidence.switching import curve, orders, recipes_of
from engine.evidence.verdict import LABEL, as_good_as_four, label_of, verdicts
from engine.live.model import Model
from engine.providers.cumulative import PROVIDER as CUMULATIVE
from engine.providers.cumulative import cumulative
from engine.providers.progress import Progress
from engine.providers.prompts import split_of
from engine.providers.table import damage_table

SWITCHED_AT = "uaq-3"
JUDGED = (OURS, RANDOM)  # of several recipes one is chosen by calibration images
SHORTLISTED = 2  # of a budget's candidates, and of its draws, are judged on more images than the others
CONTROL_ORDERS = ("weight-error", "measured")


def signal(model: Model, studied: Studied, places: Places, scale: Scale) -> Stage:
    """Apple's cumulative signal."""
    if scale.cumulative is None:
        return {}
    answer: dict[str, Scores] = {}
    for step in cumulative(model, scale.cumulative, partial=places.file(studied, "cumulative.jsonl")):
        if isinstance(step, Progress):
            yield step
        else:
            answer = {CUMULATIVE: step}
    return answer


def switched(model: Model, studied: Studied, places: Places, scale: Scale, scores: Sequence[Scores],
              known: dict[str, Scores]) -> Stage:
    """Deletion and insertion curves over blocks, on images: the default attribution, the controls, and chance."""
    option = parse_option(SWITCHED_AT)
    if not scale.switched:
        return []
    structure = studied.structure
    chosen = [*(s for s in scores if s.provider == DEFAULT_ORDER), *(known[n] for n in CONTROL_ORDERS if n in known),
              size_only(structure, SWITCHED_AT)]
    columns = {s.provider: at_option(structure, s, SWITCHED_AT, BLOCKS) for s in chosen}
    blocks = [b.id for b in structure.level("block")]
    gauge = Gauge(model, places.file(studied, f"switching-{scale.switched}.jsonl"),
                  Setting("calibration", scale.switched, scale.steps, brief=True))
    curves = [(name, kind, recipes_of(structure, order, option, kind))
              for name, order in orders(columns, blocks).items() for kind in ("deletion", "insertion")]
    yield from gauge.measure([r for _, _, recipes in curves for r in recipes], "deletion and insertion curves")
    found = []
    for name, kind, recipes in curves:
        values = [gauge[r].metric("image_mse") for r in recipes]
        found.append(curve(name, kind, [m.value for m in values if m is not None]))
    return found


def contest(model: Model, studied: Studied, places: Places, scale: Scale, predictor: Predictor,
             known: dict[str, Scores]) -> Stage:
    """Every contender at every budget, on the final images."""
    sizes = budgets(studied.structure)
    contenders, dropped = yield from _contenders(studied, places, predictor, known, sizes)
    before = efforts(studied, known, {e.contender for e in contenders})
    best, spent = yield from _judged(model, studied, places, scale, [e for e in contenders if e.contender in JUDGED])
    kept = [e for e in contenders if e.contender not in JUDGED or e in best]
    final = Gauge(model, places.file(studied, _final(scale.first)), Setting("final", scale.images, scale.steps,
                                                                            with_floor=True, first=scale.first))
    yield from final.measure([e.recipe for e in kept], "final comparisons")
    recipes = {e.recipe.hash: " ".join(final[e.recipe].options.values()) for e in kept}
    return {"images": scale.images, "judged": scale.judged, "sifted": min(scale.sifted, scale.judged),
            "shortlisted": SHORTLISTED, "candidates": CANDIDATES, "draws": DRAWS,
            "alone": any((e.contender, e.note) == (OURS, ALONE) for e in contenders),
            "choices": [x.name for x in studied.structure.choices],
            "budgets": verdicts(sizes, kept, final.results), "recipes": recipes,
            "dropped": to_json(dropped), "prompts": len(split_of(model).final),
            "measured_alone": _measured_alone(studied, known),
            "forecasts": _forecasts(predictor, [e.recipe for e in kept]),
            "four": as_good_as_four(sizes, kept, final.results), "floor": to_json(final.results[FULL].metrics),
            "efforts": to_json([*before, *spent])}


def _forecasts(predictor: Predictor, recipes: Sequence[Recipe]) -> dict[str, list[float | bool]]:
    """Recipe hash -> mean, low, high, and whether it is extrapolated; of those with options the predictor knows."""
    found: dict[str, list[float | bool]] = {}
    if predictor.formula == LABEL:
        advisor = Advisor(predictor)
        for recipe in recipes:
            with suppress(StudyError):
                forecast = advisor.forecast([recipe])[0]
                found[recipe.hash] = [forecast.mean, forecast.low, forecast.high, forecast.beyond]
    return found


def _measured_alone(studied: Studied, known: dict[str, Scores]) -> list[int]:
    """How many entries of the table of layers measured alone were measured, and how many there are (full precision, to
    which they are compared, aside)."""
    table = damage_table(studied.structure, known, MEASURED)
    entries = sum(len(row) - 1 for row in table.values.values())
    return [entries - sum(map(len, table.scaled.values())), entries]


def _judged(model: Model, studied: Studied, places: Places, scale: Scale, drawn: Sequence[Entry]) -> Stage:
    """The best candidate and the best draw of every budget, and what finding them took: all are judged on a few images,
    those shortlisted on more."""
    few = Gauge(model, places.file(studied, "sifted.jsonl"),
                Setting("calibration", min(scale.sifted, scale.judged), scale.steps, brief=True))
    yield from few.measure([e.recipe for e in drawn], "candidates and random draws")
    groups: dict[tuple[str, str], dict[str, Entry]] = {}
    for e in drawn:  # candidates that are one recipe count once
        groups.setdefault((e.budget, e.contender), {}).setdefault(e.recipe.hash, e)
    short = [sorted(group.values(), key=lambda e: -label_of(few[e.recipe]))[:SHORTLISTED] for group in groups.values()]
    more = Gauge(model, places.file(studied, "shortlisted.jsonl"),
                 Setting("calibration", scale.judged, scale.steps, brief=True))
    yield from more.measure([e.recipe for group in short for e in group], "the shortlisted again")
    spent = [Effort(name, what, len({e.recipe.hash for e in several if e.contender == name}), gauge.setting.images,
                    gauge.steps) for what, several, gauge in (
                        ("candidates on a few images", drawn, few),
                        ("the shortlisted on more", [e for group in short for e in group], more)) for name in JUDGED]
    return [max(group, key=lambda e: label_of(more[e.recipe])) for group in short], spent


def _final(first: int) -> str:
    """One file for every slice of the final images."""
    return f"final-{first}.jsonl" if first else "final.jsonl"


def _contenders(studied: Studied, places: Places, predictor: Predictor, known: dict[str, Scores],
                sizes: Sequence[Budget]) -> Stage:
    """The recipes and who has none, kept in a file named by all that determines them: scoring blocks jointly takes
    minutes."""
    sources = Sources(Advisor(predictor), known)
    path = places.file(studied, f"contenders-{fingerprint(studied.digest, sources, sizes)}.json")
    reference = model_ref(studied.structure)
    if path.is_file():
        content = read_json(path, StudyError)
        return ([Entry(r["budget"], r["contender"], Recipe(reference, {n: parse_option(o) for n, o in
                                                                       r["options"].items()}), r["bytes"], r["note"])
                 for r in content["entries"]], [from_json(Dropped, r) for r in content["dropped"]])
    yield Progress("allocating", 0, 0)
    if any(k in predictor.members for k in (Kind.GNN, Kind.GUIDED)):
        blocks: list[BlockScores] = []
        for number, block in enumerate(block_scores(predictor, studied.table.picks, options=PAPER)):
            blocks.append(block)
            yield Progress(f"joint scores of {block.id}", number + 1, len(predictor.subject.graph.parts))
        sources = replace(sources, operation=operation_scores(predictor), blocks=blocks)
    every = [*(e for budget in sizes for e in entries(sources, budget)), *fours(sources.advisor)]
    found, dropped = [e for e in every if isinstance(e, Entry)], [e for e in every if isinstance(e, Dropped)]
    write_json(path, {"dropped": to_json(dropped), "entries": [
        {"budget": e.budget, "contender": e.contender, "bytes": e.bytes, "note": e.note,
         "options": {n: str(o) for n, o in e.recipe.options.items()}} for e in found]})
    return found, dropped
