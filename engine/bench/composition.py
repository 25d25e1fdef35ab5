"""`composition`: allocation x weight method x activation scheme, at the bytes of uniform 4 bits.

Any provider's allocation goes with any weight method and any activation scheme: allocation, then scales at each layer's
bits, then weights, then inputs; `ROWS` says which combinations are measured. Every allocation may take as many bytes as
uniform W4 and leaves the same layers in full precision, so a row differs from the uniform one of the same treatment in
its bits per layer and in nothing else; but for `EVERYWHERE`, which searches all layers and quantizes the inputs of all,
and the treatment by k-means, whose rows are told against the uniform one by `uaq`. Finished rows are kept, calibration
itself is kept by its stages, and the same call goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from engine.allocate.knapsack import knapsack
from engine.allocate.problem import Limits, blind_scores, layer_problem
from engine.bench.dmq import BASELINE, COMPLETE, TablePlan, TableRow, kept_row, measured
from engine.bench.finals import PAIRED, PART, Finals, cells, difference
from engine.bench.mpq import LEARNED, QUA, WIDTHS, learned, named
from engine.calibrate.allocation import preset_recipe
from engine.calibrate.dmq import Calibrated, DmqPlan, calibrate
from engine.core.activation import TOKEN, Activation
from engine.core.errors import InputError
from engine.core.graph import Structure
from engine.core.jsonrecord import to_json
from engine.core.option import FP16, Option
from engine.core.places import cache_dir, model_stem
from engine.core.recipe import Recipe
from engine.core.record import Scores
from engine.core.sizes import recipe_bytes
from engine.live.apply import restore
from engine.live.cancel import Cancel
from engine.live.model import Model, open_model
from engine.providers.files import find_scores
from engine.providers.partial import Partial
from engine.providers.progress import Progress
from engine.providers.prompts import split_of
from engine.providers.table import completed

WEIGHT_BITS, INPUT_BITS = 4, 6
UNIFORM = f"uniform W{WEIGHT_BITS}"
IMPORTANCE, MEASURED, SIZE_ONLY = "MPQ-Diff useful", "measured one at a time", "size-only"
EVERYWHERE = f"{IMPORTANCE}, all layers"  # those that the others leave in full precision are searched too
# allocation -> whose scores it goes by; "" needs none
PROVIDERS = {IMPORTANCE: "orthogonality", MEASURED: LEARNED[MEASURED], QUA: LEARNED[QUA], SIZE_ONLY: "",
             EVERYWHERE: "orthogonality"}
ALL, EXCLUDED = "all", "all but {}'s"  # which layers a row quantizes

NEAREST, ONLINE = "nearest, full-precision inputs", f"nearest, online A{INPUT_BITS}"
STATIC, ROUNDED = f"nearest, static A{INPUT_BITS}", "AdaRound, full-precision inputs"
FULL = f"LES, AdaRound, static A{INPUT_BITS} with PTS"
KMEANS = "kmeans_c, nearest, full-precision inputs"
CODEBOOKS = tuple(Option("kmeans_c", option.bits) for option in WIDTHS)
# treatment -> its allocations: all where nothing is calibrated and where everything is, fewer between
ROWS = {
    NEAREST: (UNIFORM, IMPORTANCE, MEASURED, QUA, SIZE_ONLY),
    ONLINE: (UNIFORM, IMPORTANCE, MEASURED),
    STATIC: (UNIFORM, IMPORTANCE, MEASURED, EVERYWHERE),
    ROUNDED: (UNIFORM, IMPORTANCE, MEASURED),
    FULL: (UNIFORM, IMPORTANCE, MEASURED, QUA, SIZE_ONLY, EVERYWHERE),
    KMEANS: (IMPORTANCE,),
}


def composition_plan(images: int = 256) -> TablePlan:
    """The DMQ table's plan with its rounding shortened further: every allocation has weights of its own to learn.

    Raises:
        InputError: fewer than two pictures.
    """
    return TablePlan(images=images, rounding_iterations=400)


def treatments(plan: TablePlan) -> dict[str, tuple[DmqPlan, bool]]:
    """Row -> what is calibrated, and whether inputs are quantized."""
    made = plan.ingredients()
    nearest, rounded, complete = made[BASELINE], made["+ AdaRound"], made[COMPLETE]
    return {
        NEAREST: (nearest, False),
        ONLINE: (replace(nearest, scheme=TOKEN), True),
        STATIC: (nearest, True),
        ROUNDED: (rounded, False),
        FULL: (complete, True),
        KMEANS: (nearest, False),
    }


def allocations(structure: Structure, scores: Mapping[str, Scores], exclude: str,
                options: tuple[Option, ...] = WIDTHS, names: Iterable[str] = PROVIDERS) -> dict[str, Recipe]:
    """Name -> weights of every allocation, none with more bytes than the uniform one by `uaq`.

    Args:
        structure: of the model.
        scores: provider -> scores; an allocation whose provider is not among them is left out.
        exclude: what stays in full precision, a key of `engine.calibrate.allocation.EXCLUSIONS`; not of `EVERYWHERE`,
            which has the same bytes for all layers.
        options: that are searched.
        names: of the allocations besides the uniform one.

    Raises:
        InputError: there are no scores of MPQ-Diff, or no such exclusion.
    """
    if PROVIDERS[IMPORTANCE] not in scores:
        raise InputError(f"There are no orthogonality scores of {structure.model}; make them with python -m engine "
                         f"sensitivity {structure.model} --provider orthogonality.")
    uniform = preset_recipe(structure, f"W{WEIGHT_BITS}A16", exclude)
    left = {x.name: FP16 for x in structure.choices if x.name not in uniform.options}
    budget = recipe_bytes(structure, uniform.options)
    found = {UNIFORM: uniform}
    for name in (n for n in names if n not in absent(scores)):
        provider = PROVIDERS[name]
        known = completed(structure, scores, provider) if provider else blind_scores(structure)
        limits = Limits(options=options, pinned={} if name == EVERYWHERE else left, keep_untouched=False)
        solved = knapsack(layer_problem(structure, known, budget, limits)).recipe
        found[name] = replace(solved, options={n: o for n, o in solved.options.items() if not o.is_untouched})
    return found


def absent(scores: Mapping[str, Scores]) -> list[str]:
    """Allocations whose scores are not there."""
    fitted = learned(scores)
    return [name for name, provider in PROVIDERS.items() if provider
            and (name not in fitted if name in LEARNED else provider not in scores)]


def table(model: Model, plan: TablePlan, scores: Mapping[str, Scores], *, partial: Path | None = None,
          directory: Path | None = None, cancel: Cancel | None = None) -> Iterator[Progress | TableRow]:
    """Calibrate and measure every combination of `ROWS`; a `TableRow` each (`preset` is the allocation, `row` the
    treatment), those kept in `partial` at once.

    Args:
        model: in float32; its recipe is put back at the end.
        plan: see `composition_plan`.
        scores: provider -> scores of this model.
        partial: JSON lines with finished rows, kept by the hash of their allocation.
        directory: where calibration is kept; None is the user's cache.
        cancel: asked all the time.

    Raises:
        InputError: there are no scores of MPQ-Diff.
        StudyError: `partial` belongs to another table.
        Cancelled: the caller asked for it.
    """
    structure = model.structure
    uaq = allocations(structure, scores, plan.exclude)
    codebooks = allocations(structure, scores, plan.exclude, CODEBOOKS, ROWS[KMEANS])
    idle = structure.unexecuted
    kept = Partial(partial, {"model": structure.identity, "prompts": split_of(model).hash, "part": PART,
                             "dtype": model.dtype, **to_json(plan)})
    done = {(r["allocated"], r["row"]): r for r in kept.records}
    finals = Finals(model, plan.images, plan.steps, cancel)
    for treatment, (ingredients, quantized) in treatments(plan).items():
        recipes = codebooks if treatment == KMEANS else uaq
        for name in (n for n in ROWS[treatment] if n in recipes):
            weights = recipes[name]
            key = weights.hash, treatment
            if key not in done:
                inputs = {n: Activation(INPUT_BITS) for n in weights.options if quantized and n not in idle}
                for event in calibrate(model, replace(weights, activations=inputs), ingredients, directory=directory,
                                       cancel=cancel):
                    if isinstance(event, Progress):
                        yield replace(event, doing=f"{name}, {treatment}: {event.doing}")
                    elif isinstance(event, Calibrated):
                        row = measured(model, finals, name, treatment, event)
                        done[key] = {**asdict(row), "allocated": weights.hash}
                        kept.add(done[key])
                        restore(model)
            yield kept_row({**{k: v for k, v in done[key].items() if k != "allocated"}, "preset": name})


def lines(rows: Sequence[TableRow], exclude: str = "dmq") -> list[dict[str, Any]]:
    """The table: a line per row with its metrics, and how it differs, image by image and with 95 % intervals, from
    uniform bits under the same treatment (of k-means: with nearest rounding by `uaq`).

    Args:
        rows: see `table`.
        exclude: of its plan.
    """
    uniform = {r.row: r for r in rows if r.preset == UNIFORM}
    found = []
    for row in rows:
        line: dict[str, Any] = {"treatment": row.row, "allocation": row.preset,
                                "layers": ALL if row.preset == EVERYWHERE else EXCLUDED.format(exclude),
                                "bits": round(row.bits_per_weight, 3),
                                "GBOPs": round(row.bit_operations / 1e9, 2), **cells(row.metrics)}
        other = uniform.get(NEAREST if row.row == KMEANS else row.row) if row.preset != UNIFORM else None
        for metric in PAIRED:
            line[f"{metric} against {UNIFORM}"] = difference(row.images, other.images if other else None, metric)
        found.append(line)
    return found


def run(model: str = "emoji-unet", rounds: int = 256) -> dict[str, Any]:
    """The table of a model; `rounds` is how many final pictures each row makes."""
    live, plan = open_model(model), composition_plan(rounds)
    try:
        scores = find_scores(live.structure)
        stem = model_stem(live.structure.model, live.structure.identity)
        place = cache_dir() / "bench" / f"{stem}.composition-{rounds}.jsonl"
        rows = [e for e in table(live, plan, scores, partial=place) if isinstance(e, TableRow)]
    finally:
        live.close()
    return {"model": model, "n": rounds, "peer": "full precision, same prompts and seeds", "kept": place.name,
            "budget": f"bytes of {UNIFORM}, {EXCLUDED.format(plan.exclude)} layers",
            **{name: named(scores[provider]) for name, provider in PROVIDERS.items()
               if name in LEARNED and name not in absent(scores)},
            "iterations of rounding a block (bench dmq has 1500)": plan.rounding_iterations,
            "left out for want of scores": ", ".join(absent(scores)) or "none",
            "rows": lines(rows, plan.exclude)}
