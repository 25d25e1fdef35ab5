"""`dmq`: what each ingredient adds, W4A8 and W4A6: rounding, scaling, timestep weighting, power-of-two factors.

Every row is the one above with one ingredient more (the last two are alternatives), on the same final prompts and
seeds, so rows are compared image by image. Finished rows are kept, calibration itself is kept by its stages, and the
same call goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.bench.finals import PAIRED, PART, Finals, Images, Metrics, cells, difference, enough
from engine.calibrate.adaround import RoundingPlan
from engine.calibrate.allocation import preset_recipe
from engine.calibrate.capture import CapturePlan
from engine.calibrate.channels import channel_report, report_path, save_report
from engine.calibrate.dmq import Calibrated, DmqPlan, calibrate
from engine.calibrate.files import Cost
from engine.calibrate.les import LesPlan
from engine.calibrate.presets import save_preset
from engine.calibrate.pts import ShiftPlan
from engine.calibrate.rows import RowsPlan
from engine.core.jsonrecord import to_json
from engine.core.places import cache_dir, model_stem
from engine.core.recipe import save_recipe
from engine.core.sizes import bit_operations, bits_per_weight
from engine.live.apply import restore
from engine.live.cancel import Cancel
from engine.live.macs import layer_macs
from engine.live.model import Model, open_model
from engine.providers.partial import Partial
from engine.providers.progress import Progress
from engine.providers.prompts import split_of

PRESETS = ("W4A8", "W4A6")
BASELINE = "baseline"
COMPLETE = "+ PTS by voting"  # everything: what the explorer offers as a preset
WIDER = ("W4A8", BASELINE)  # what DMQ at fewer bits of activations has to reach
LEAST_SECONDS = 5.0  # reading a stage's files again stays below this


@dataclass(frozen=True, slots=True)
class TablePlan:
    """What is compared, and how thoroughly.

    Attributes:
        presets: of bits.
        images: final pictures per row.
        exclude: what stays in full precision, see `engine.calibrate.allocation.EXCLUSIONS`.
        iterations, rounding_iterations: of scaling a layer and of rounding a block.
        capture: calibration pictures.
        rows: inputs that are learned from.
        groups: timestep groups.
        where: layers that take power-of-two factors.
        steps: denoising steps of everything; None = the model's default.

    Raises:
        InputError: fewer than two pictures.
    """

    presets: tuple[str, ...] = PRESETS
    images: int = 256
    exclude: str = "dmq"
    iterations: int = 600
    rounding_iterations: int = 1500
    capture: int = 64
    rows: int = 512
    groups: int = 20
    where: str = "auto"
    steps: int | None = None

    def __post_init__(self) -> None:
        enough(self.images)

    def ingredients(self) -> dict[str, DmqPlan]:
        """Row -> what is calibrated, in the order of the table."""
        adaptive, rounding = LesPlan(iterations=self.iterations), RoundingPlan(iterations=self.rounding_iterations)
        uniform = replace(adaptive, weighting="uniform")
        plain = DmqPlan(None, None, shifts=None, groups=self.groups, rows=RowsPlan(count=self.rows),
                        capture=CapturePlan(images=self.capture, steps=self.steps))
        return {
            BASELINE: plain,
            "+ AdaRound": replace(plain, rounding=rounding),
            "+ LES": replace(plain, rounding=rounding, scaling=uniform),
            "+ adaptive weighting": replace(plain, rounding=rounding, scaling=adaptive),
            "+ PTS by error": replace(plain, rounding=rounding, scaling=adaptive,
                                      shifts=ShiftPlan(choose="error", where=self.where)),
            COMPLETE: replace(plain, rounding=rounding, scaling=adaptive,
                                       shifts=ShiftPlan(where=self.where)),
        }


# row -> the row it is compared with
ABOVE = {"+ AdaRound": BASELINE, "+ LES": "+ AdaRound", "+ adaptive weighting": "+ LES",
         "+ PTS by error": "+ adaptive weighting", COMPLETE: "+ adaptive weighting"}


@dataclass(frozen=True)
class TableRow:
    """One row.

    Attributes:
        preset, row: which.
        metrics: name -> (value, low, high), 95 % intervals.
        images: name -> values image by image, for paired differences.
        bits_per_weight, bit_operations: of the recipe, everything counted.
        calibration: figures of the calibration (layers scaled, blocks learned, layers shifted, ids).
        stages: stage -> seconds and peak megabytes, None where not noted; a stage that rows share counts in each.
        seconds: spent on the final pictures.
    """

    preset: str
    row: str
    metrics: Metrics
    images: Images
    bits_per_weight: float
    bit_operations: int
    calibration: dict[str, Any]
    stages: dict[str, Cost] = field(default_factory=dict)


def table(model: Model, plan: TablePlan, *, partial: Path | None = None, directory: Path | None = None,
          recipes: Path | None = None, cancel: Cancel | None = None) -> Iterator[Progress | TableRow]:
    """Calibrate and measure every row; a `TableRow` each, those kept in `partial` at once.

    Args:
        model: in float32; its recipe is put back at the end.
        plan: see `TablePlan`.
        partial: JSON lines with finished rows.
        directory: where calibration is kept; None is the user's cache.
        recipes: folder for the recipe of every row; None writes none.
        cancel: asked all the time.

    Raises:
        StudyError: `partial` belongs to another table.
        Cancelled: the caller asked for it.
    """
    head = {"model": model.structure.identity, "prompts": split_of(model).hash, "part": PART, "dtype": model.dtype,
            **to_json(plan), "presets": "any"}
    kept = Partial(partial, head)
    done = {(r["preset"], r["row"]): r for r in kept.records}
    finals = Finals(model, plan.images, plan.steps, cancel)
    for preset in plan.presets:
        for name, ingredients in plan.ingredients().items():
            if (preset, name) not in done:
                for event in calibrate(model, preset_recipe(model.structure, preset, plan.exclude), ingredients,
                                       directory=directory, cancel=cancel):
                    if isinstance(event, Progress):
                        yield replace(event, doing=f"{preset} {name}: {event.doing}")
                    elif isinstance(event, Calibrated):
                        done[preset, name] = asdict(measured(model, finals, preset, name, event))
                        kept.add(done[preset, name])
                        _keep(model, event, recipes, f"{preset} {name}")
            yield kept_row(done[preset, name])


def measured(model: Model, finals: Finals, preset: str, name: str, found: Calibrated) -> TableRow:
    """The row of a calibrated recipe, with its final pictures made and compared."""
    metrics, images = finals.of(found.recipe)
    recipe, structure = found.recipe, model.structure
    bits = bits_per_weight(structure, recipe.options, recipe.activations, recipe.weights)
    operations = bit_operations(structure, layer_macs(model), recipe.options, recipe.activations)
    scaled = [s for s in found.scalings.values() if s.before]
    learned = [r for r in found.roundings.values() if r.iterations]
    figures = {
        "recipe": recipe.hash, "weights": found.weights.id if found.weights else "",
        "tables": found.tables.id if found.tables else "", "scaled": sum(s.accepted for s in scaled),
        "scalings": len(scaled), "learned": sum(r.accepted for r in learned), "blocks": len(learned),
        "shifted": sum(s.accepted for s in found.shifts.values()), "voted": len(found.shifts),
    }
    return TableRow(preset, name, metrics, images, bits, operations, figures, dict(found.stages))


def lines(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """The table: a line per row with its metrics, and how it differs, image by image and with 95 % intervals, from the
    row whose ingredients it adds to and from the baseline at 8-bit activations."""
    found = []
    by_name = {(r.preset, r.row): r for r in rows}
    for row in rows:
        line: dict[str, Any] = {"preset": row.preset, "row": row.row, "bits": round(row.bits_per_weight, 3),
                                "GBOPs": round(row.bit_operations / 1e9, 2), **cells(row.metrics)}
        others = {"the row it adds to": by_name.get((row.preset, ABOVE.get(row.row, ""))),
                  " ".join(WIDER): by_name.get(WIDER) if row.preset != WIDER[0] else None}
        for said, other in others.items():
            for metric in PAIRED:
                line[f"{metric} against {said}"] = difference(row.images, other.images if other else None, metric)
        found.append(line)
    return found


def stage_lines(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """What calibrating took, a line per stage of every row; what rows share counts in each of them.

    Rows kept before that was noted have next to nothing for what they took over, and no line for it.
    """
    return [{"preset": row.preset, "row": row.row, "stage": stage, "seconds": noted(seconds), "peak MB": noted(peak)}
            for row in rows for stage, (seconds, peak) in row.stages.items()
            if seconds is None or seconds >= LEAST_SECONDS]


def noted(value: float | None) -> int | str:
    """A figure of a stage for a table."""
    return "unknown" if value is None else round(value)


def run(model: str = "emoji-unet", rounds: int = 256) -> dict[str, Any]:
    """The table of a model at the lengths of the presets; `rounds` is how many final pictures each row makes."""
    live = open_model(model)
    plan = TablePlan(images=rounds)
    place = cache_dir() / "bench" / f"{model_stem(live.structure.model, live.structure.identity)}.dmq-{rounds}.jsonl"
    rows = [e for e in table(live, plan, partial=place) if isinstance(e, TableRow)]
    live.close()
    return {"model": model, "n": rounds, "peer": "full precision, same prompts and seeds", "kept": place.name,
            "layers in full precision": plan.exclude, "rows": lines(rows), "calibration": stage_lines(rows)}


def _keep(model: Model, found: Calibrated, recipes: Path | None, name: str) -> None:
    report = channel_report(found)
    if report is not None:
        save_report(report_path(model.structure, report.tables), report)
    preset, _, row = name.partition(" ")
    if row == COMPLETE:
        save_preset(model.structure, preset, found.recipe)
    if recipes is not None:
        stem = "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
        save_recipe(recipes / f"{stem}.recipe.json", found.recipe, model.structure)
    restore(model)


def kept_row(record: dict[str, Any]) -> TableRow:
    """A row as it was, from the record that was kept of it."""
    pairs = {k: tuple(v) for k, v in record["metrics"].items()}
    images = {k: tuple(v) for k, v in record["images"].items()}
    stages = {k: tuple(v) for k, v in record["stages"].items()}
    return TableRow(**{**record, "metrics": pairs, "images": images, "stages": stages})
