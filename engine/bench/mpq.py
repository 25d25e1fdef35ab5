"""`mpq`: MPQ-Diff's recipes against controls and the other providers', at the same stored bits, on final pictures.

Contenders are compared within a group, whose members choose among the same options for the same layers; all bytes are
charged. The published linear program knows widths of one method only, so one group has those and nothing else; a second
has every method; a third has the papers' exclusion: first and last layer at 8 bits, whatever the budget. The program is
as published, its importances are as `notes` says. Finished rows are kept and the same call goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.allocate.allocation import Allocation
from engine.allocate.allocators import ALLOCATORS, allocate
from engine.allocate.baselines import random_recipes, uniforms
from engine.allocate.blocks import PAPER
from engine.allocate.budget import bits_budget
from engine.allocate.faithful import faithful
from engine.allocate.knapsack import knapsack
from engine.allocate.problem import Limits, Problem, blind_scores, layer_problem
from engine.analysis.predictor import Kind
from engine.bench.finals import PART, Finals, Images, Metrics, cells, difference, enough
from engine.calibrate.allocation import EXCLUSIONS
from engine.calibrate.importance import AGGREGATES
from engine.core.errors import InputError
from engine.core.graph import Structure
from engine.core.jsonrecord import to_json
from engine.core.option import Option
from engine.core.places import cache_dir, model_stem
from engine.core.recipe import Recipe, save_recipe
from engine.core.record import Scores
from engine.core.sizes import bits_per_weight
from engine.live.cancel import Cancel
from engine.live.model import Model, open_model
from engine.providers.files import find_scores
from engine.providers.partial import Partial
from engine.providers.progress import Progress
from engine.providers.prompts import split_of
from engine.providers.table import completed

FAITHFUL, USEFUL = "mpq-diff", "mpq-diff-useful"
NEEDED = ("orthogonality", "orthogonality-linear", "weight-error")
# row -> provider: the paper's operation scores of the graph network, the predictor in use (whatever kind fitted best),
# and layers measured one at a time
QUA = "Qua2SeDiMo"
LEARNED = {QUA: "gnn-operation", "predictor in use": "predictor", "measured one at a time": "measured"}
QUA_FAITHFUL = f"{QUA}, faithful"  # its own selection too, over its own six options
KINDS = {Kind.RIDGE: "linear model", Kind.DAMAGE: "additive model", Kind.ANCHORED: "anchored additive model",
         Kind.GNN: "graph network", Kind.GUIDED: "guided network", Kind.BLEND: "blend"}
CONTROLS = ("weight-error", "size-only")
FLAT = "mpq-flat"
OPTIONS = tuple(Option(method, bits) for method in ("uaq", "kmeans_c", "kmeans_a") for bits in (2, 3, 4, 5, 6, 8))
WIDTHS = tuple(Option("uaq", bits) for bits in (2, 3, 4, 6, 8))  # those of the published linear program
ENDS = Option("uaq", 8)
AFFINE, EVERY, KEPT_ENDS = "uaq 2 to 8", "every method", "uaq 2 to 8, first and last at 8"


@dataclass(frozen=True, slots=True)
class MpqPlan:
    """What is compared.

    Attributes:
        bits: stored bits per weight, a budget each.
        images: final pictures per recipe.
        draws: random recipes per budget and group, a row each.
        steps: denoising steps; None = the model's default.

    Raises:
        InputError: fewer than two pictures.
    """

    bits: tuple[float, ...] = (3.0, 3.25, 3.5, 4.0)
    images: int = 256
    draws: int = 3
    steps: int | None = None

    def __post_init__(self) -> None:
        enough(self.images)


@dataclass(frozen=True)
class MpqRow:
    """One recipe.

    Attributes:
        budget: stored bits per weight it had to keep.
        group: what it chose from.
        contender: whose recipe.
        recipe: its hash.
        bits_per_weight: what it takes.
        widths: nominal bits -> share of the weights' layers, as text; how bang-bang it is.
        metrics, images: see `Finals`.
    """

    budget: float
    group: str
    contender: str
    recipe: str
    bits_per_weight: float
    widths: str
    metrics: Metrics
    images: Images


def table(model: Model, plan: MpqPlan, *, partial: Path | None = None, recipes: Path | None = None,
          cancel: Cancel | None = None) -> Iterator[Progress | MpqRow]:
    """Measure every row; those kept in `partial` come at once.

    Args:
        model: in float32; its recipe is put back at the end.
        plan: see `MpqPlan`.
        partial: JSON lines with finished rows.
        recipes: folder for the recipe of every row; None writes none.
        cancel: asked all the time.

    Raises:
        InputError: the scores that MPQ-Diff needs are not there.
        StudyError: `partial` belongs to another table.
        Cancelled: the caller asked for it.
    """
    structure = model.structure
    found = find_scores(structure)
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise InputError(f"There are no {missing[0]} scores of {structure.model}; make them with python -m engine "
                         f"sensitivity {structure.model} --provider {missing[0].removesuffix('-linear')}.")
    head = {"model": structure.identity, "prompts": split_of(model).hash, "part": PART, "dtype": model.dtype,
            **to_json(plan), "bits": "any", "draws": "any"}
    kept = Partial(partial, head)
    done = {r["recipe"]: r for r in kept.records}  # what is measured is a recipe, whoever's it is
    finals = Finals(model, plan.images, plan.steps, cancel)
    wanted = [(bits, *one) for bits in plan.bits for one in contenders(model, bits, plan.draws)]
    for number, (bits, group, name, recipe) in enumerate(wanted):
        if recipe.hash not in done:
            yield Progress(f"{bits:g} bits, {group}: {name}", number, len(wanted))
            metrics, images = finals.of(recipe)
            done[recipe.hash] = {"recipe": recipe.hash, "metrics": metrics, "images": images}
            kept.add(done[recipe.hash])
        if recipes is not None:
            words = f"{bits:g} {group} {name}".lower()
            stem = "-".join("".join(c if c.isalnum() else " " for c in words).split())
            save_recipe(recipes / f"{stem}.recipe.json", recipe, structure)
        found = done[recipe.hash]
        yield MpqRow(bits, group, name, recipe.hash, bits_per_weight(structure, recipe.options), _widths(recipe),
                     {k: tuple(v) for k, v in found["metrics"].items()},
                     {k: tuple(v) for k, v in found["images"].items()})


def contenders(model: Model, bits: float, draws: int) -> Iterator[tuple[str, str, Recipe]]:
    """Group, name and recipe; what has no recipe at this size, or no scores, is left out."""
    structure = model.structure
    found, budget = find_scores(structure), bits_budget(bits, structure)
    ends = {x.name: ENDS for x in structure.choices if x.role in EXCLUSIONS["first-last"]}
    groups = {AFFINE: Limits(options=WIDTHS, keep_untouched=False),
              EVERY: Limits(options=OPTIONS, keep_untouched=False),
              KEPT_ENDS: Limits(options=WIDTHS, pinned=ends, keep_untouched=False)}
    for group, limits in groups.items():
        for name, make in _makers(structure, found, budget, limits, group).items():
            try:
                yield group, name, make().recipe
            except InputError:  # nothing of this kind fits
                continue
        try:
            blind = layer_problem(structure, blind_scores(structure), budget, limits)
        except InputError:
            continue
        for method, allocation in uniforms(blind).items():
            yield group, f"uniform {method}", allocation.recipe
        if group == KEPT_ENDS:
            continue
        for number, allocation in enumerate(random_recipes(blind, draws, 0)):
            yield group, f"random {number + 1}", allocation.recipe


def _makers(structure: Structure, found: Mapping[str, Scores], budget: int, limits: Limits,
            group: str) -> dict[str, Callable[[], Allocation]]:
    """Contender -> what makes its recipe. The published program is no contender where methods differ: within one
    width it has nothing to choose a method by."""

    def problem(provider: str) -> Problem:
        scores = completed(structure, found, provider) if provider else blind_scores(structure)
        return layer_problem(structure, scores, budget, limits)

    names = {AFFINE: (FAITHFUL, FLAT, USEFUL, *CONTROLS), EVERY: (USEFUL, *CONTROLS),
             KEPT_ENDS: (FAITHFUL, USEFUL, *CONTROLS)}
    makers: dict[str, Callable[[], Allocation]] = {}
    for name in names[group]:
        makers[name] = lambda name=name: allocate(problem(ALLOCATORS[name].provider), name)  # type: ignore[misc]
    if group != KEPT_ENDS:
        for name, provider in learned(found).items():
            makers[name] = lambda provider=provider: knapsack(problem(provider))  # type: ignore[misc]
    if group == EVERY and QUA in learned(found):
        makers[QUA_FAITHFUL] = lambda: faithful(layer_problem(structure, found[LEARNED[QUA]], budget,
                                                              replace(limits, options=PAPER)))
    return makers


def learned(scores: Mapping[str, Scores]) -> dict[str, str]:
    """Row -> provider of those of `LEARNED` whose scores are there. Only the graph network of the paper goes by its
    name; embedding scores of the guided network, which is told the additive damages, are left out."""
    return {name: provider for name, provider in LEARNED.items() if provider in scores
            and not (name == QUA and scores[provider].about.get("kind", Kind.GNN) != Kind.GNN)}


def named(scores: Scores) -> str:
    """A provider with the kind of model that its scores were asked of, where the scores say so."""
    kind = scores.about.get("kind", "")
    return f"{scores.provider} of the {KINDS[Kind(kind)]}" if kind in set(Kind) else scores.provider


def notes(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """What the rows by importance and the learned ones go by, read from the scores themselves."""
    linear = scores[ALLOCATORS[FAITHFUL].provider].about
    estimate = "debiased" if linear.get("debiased") == str(True) else "biased"
    gamma = "sum" if linear.get("summed") == str(True) else "mean"
    tail = "c = mean of theta over a layer and all later ones" if linear.get("tail") == str(True) else "theta"
    over = AGGREGATES.get(linear.get("aggregate", ""), "of unknown aggregation over steps")
    found: dict[str, Any] = {
        FAITHFUL: f"OMPQ's linear program on {tail}, from the {estimate} orthogonality matrix, gamma = {gamma} over "
                  f"the other layers; {over}; beta {linear.get('beta', 'unknown')} (OMPQ's release: biased, sum)"}
    present = learned(scores)
    for name, provider in present.items():
        trials = scores[provider].trust.trials
        found[name] = named(scores[provider]) + (f", {trials} trials" if trials else "")
    if QUA in present:
        found[QUA_FAITHFUL] = (f"{present[QUA]}, each layer its best of {', '.join(map(str, PAPER))} alone, bits "
                               f"priced by the least lambda that fits; no row where those six do not fit")
    return found


def _widths(recipe: Recipe) -> str:
    held = [option.bits for option in recipe.options.values()]
    return " ".join(f"{bits}:{held.count(bits)}" for bits in sorted(set(held)))


def lines(rows: Sequence[MpqRow]) -> list[dict[str, Any]]:
    """The table: a line per row, with its PSNR against the useful recipe of the same budget and group image by image.
    """
    useful = {(r.budget, r.group): r for r in rows if r.contender == USEFUL}
    found = []
    for row in rows:
        other = useful.get((row.budget, row.group))
        found.append({"budget": row.budget, "options": row.group, "contender": row.contender,
                      "bits": round(row.bits_per_weight, 3), "layers by width": row.widths, **cells(row.metrics),
                      f"psnr against {USEFUL}":
                          difference(row.images, other.images if other and other is not row else None, "psnr")})
    return found


def run(model: str = "emoji-unet", rounds: int = 256) -> dict[str, Any]:
    """The table of a model; `rounds` is how many final pictures each row makes."""
    live = open_model(model)
    try:
        stem = model_stem(live.structure.model, live.structure.identity)
        place = cache_dir() / "bench" / f"{stem}.mpq-{rounds}.jsonl"
        rows = [e for e in table(live, MpqPlan(images=rounds), partial=place) if isinstance(e, MpqRow)]
    finally:
        live.close()
    scored = find_scores(live.structure)
    absent = [name for name in LEARNED if name not in learned(scored)]
    return {"model": model, "n": rounds, "peer": "full precision, same prompts and seeds", "kept": place.name,
            **notes(scored), "left out for want of scores": ", ".join(absent) or "none", "rows": lines(rows)}
