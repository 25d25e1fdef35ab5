"""`lengths`: the shortened learning against the published one, on a few layers and one block; held-out errors of both.

DMQ learns a scaling for 6,000 iterations and rounds a block for 20,000; the presets take at most 600 and 1,500. Whether
that loses anything is measured here: same inputs, same held-out pictures, same quantizers. Trajectories, finished
layers and finished blocks are kept, with what they took, and the same call goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine.calibrate.adaround import PUBLISHED_ITERATIONS as ROUNDING_ITERATIONS
from engine.calibrate.adaround import Rounding, RoundingPlan
from engine.calibrate.allocation import preset_recipe
from engine.calibrate.capture import Captured, CapturePlan, about_capture, calibration_request, capture
from engine.calibrate.dmq import FOLDER, digest
from engine.calibrate.files import Folder
from engine.calibrate.les import PUBLISHED_ITERATIONS, LesPlan, Scaling
from engine.calibrate.roundings import learn_roundings
from engine.calibrate.rows import RowsPlan, draw_rows
from engine.calibrate.scalings import Inputs, learn_scalings
from engine.calibrate.units import units_of
from engine.core.errors import InputError
from engine.core.layer import Role
from engine.core.places import cache_dir, model_stem
from engine.core.recipe import Recipe
from engine.live.cancel import Cancel
from engine.live.model import Model, open_model
from engine.providers.progress import Progress
from engine.quant.table import quantize_scaled

PRESET = "W4A6"
LAYERS = 3


@dataclass(frozen=True, slots=True)
class LengthsPlan:
    """How long the short and the long runs are, and on what.

    Attributes:
        scaling: iterations of scaling, short and published.
        rounding: iterations of rounding, short and published.
        capture: calibration pictures.
        rows: inputs that are learned from.
        steps: denoising steps; None = the model's default.
    """

    scaling: tuple[int, int] = (600, PUBLISHED_ITERATIONS)
    rounding: tuple[int, int] = (1500, ROUNDING_ITERATIONS)
    capture: int = 64
    rows: int = 512
    steps: int | None = None


def lengths(model: Model, plan: LengthsPlan | None = None, *, directory: Path | None = None,
            cancel: Cancel | None = None) -> Iterator[Progress | dict[str, Any]]:
    """Learn at both lengths; a line per layer, block and length: held-out errors, and seconds (a kept one's own).

    The long runs do not stop early, so that they are what was published. Layers: a residual convolution, a skip
    convolution or attention projection, and a feed-forward one; the block is the first that is rounded as a whole, with
    its layers scaled as the presets scale them.

    Args:
        model: in float32; its recipe is put back at the end.
        plan: see `LengthsPlan`.
        directory: where trajectories, finished layers and finished blocks are kept; None keeps them in memory.
        cancel: asked all the time.

    Raises:
        InputError: that block cannot be run by itself.
        StoreError: damaged files, or a full disk.
        Cancelled: the caller asked for it; what was finished is kept.
    """
    plan = plan or LengthsPlan()
    wanted = CapturePlan(images=plan.capture, steps=plan.steps)

    def folder(stage: str, *parts: Any) -> Folder:
        place = directory and directory / f"{stage}-{digest([model.structure.identity, *parts])}"
        return Folder(place, {"model": model.structure.identity, "stage": stage})

    about = about_capture(model, wanted, calibration_request(model, wanted))
    captured: Captured | None = None
    for event in capture(model, wanted, directory=directory and directory / f"trajectories-{digest(about)}",
                         cancel=cancel):
        if isinstance(event, Captured):
            captured = event
        else:
            yield event
    assert captured is not None
    rows = draw_rows(model, captured, RowsPlan(count=plan.rows), cancel=cancel)
    recipe = preset_recipe(model.structure, PRESET)
    names = chosen_layers(model, recipe)
    scalings = folder("scalings", rows.id)  # of both lengths: a part is of one layer at one plan
    for iterations, patience in zip(plan.scaling, (LesPlan().patience, 1.0), strict=True):
        how = replace(LesPlan(), iterations=iterations, patience=patience)
        for found in learn_scalings(model, rows, recipe, how, Inputs(), folder=scalings, only=names,
                                    cancel=cancel):
            if isinstance(found, Scaling):
                yield {"what": f"scaling {found.layer}", "iterations": f"{found.iterations} of {iterations}",
                       "without": found.before, "learned": found.after, "seconds": round(found.seconds, 1)}
            else:
                yield found
    quantized = [x for x in model.structure.layers if not recipe.option(x.choice).is_untouched]
    names = {x.name for x in quantized}
    block = next(u for u in units_of(model.structure) if len(u.layers) > 2 and u.layers[0].name in names)
    taus = {}
    short = replace(LesPlan(), iterations=plan.scaling[0])
    for found in learn_scalings(model, rows, recipe, short, Inputs(), folder=scalings,
                                only=[x.name for x in block.layers], cancel=cancel):
        if isinstance(found, Scaling):
            taus[found.layer] = found.tau
        else:
            yield found
    nearest = {x.name: quantize_scaled(model.originals.tensor(x).float(), recipe.option(x.choice), taus.get(x.name),
                                       model.structure.precision_bits) for x in quantized}
    scaled = {name: tau.tolist() for name, tau in taus.items() if tau is not None}
    for iterations in plan.rounding:
        how_long, whole = RoundingPlan(iterations=iterations), False
        # parts go by the block's name alone, and nothing before the block is learned: no calibration's folder
        parts = folder("lone-roundings", rows.id, PRESET, scaled, asdict(how_long))
        for result in learn_roundings(model, rows, nearest, how_long, folder=parts, only=[block.name], cancel=cancel):
            if not isinstance(result, Rounding):
                yield result
            elif result.block == block.name:
                whole = True
                yield {"what": f"rounding {result.block}", "iterations": f"{result.iterations} of {iterations}",
                       "without": result.before, "learned": result.after, "seconds": round(result.seconds, 1)}
        if not whole:
            raise InputError(f"{block.name} cannot be run by itself, so its rounding has no length to compare.")


def chosen_layers(model: Model, recipe: Recipe) -> list[str]:
    """Three layers that differ in kind, as far as the model has them."""
    quantized = [x for x in model.structure.layers if x.choice in recipe.options]
    wanted = ((Role.RESNET,), (Role.SKIP, Role.QUERY), (Role.FEED_FORWARD,))
    found = [next((x.name for x in quantized if x.role in roles), "") for roles in wanted]
    others = [x.name for x in quantized if x.name not in found]
    return list(dict.fromkeys([name for name in found if name] + others))[:LAYERS]


def lines(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table: a line per layer and block, what both lengths reach on held-out inputs and what they take."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        rows.setdefault(one["what"], []).append(one)
    return [{"what": what, "error without": short["without"],
             **{f"{said} {length}": one[key] for said, key in (("iterations", "iterations"), ("error", "learned"),
                                                               ("seconds", "seconds"))
                for length, one in (("short", short), ("published", published))}}
            for what, (short, published) in rows.items()]


def run(model: str = "emoji-unet", rounds: int = 64) -> dict[str, Any]:
    """Both lengths on a model; `rounds` is how many calibration pictures are captured."""
    live = open_model(model)
    try:
        place = cache_dir() / FOLDER / model_stem(live.structure.model, live.structure.identity)
        found = [e for e in lengths(live, LengthsPlan(capture=rounds), directory=place) if isinstance(e, dict)]
    finally:
        live.close()
    return {"model": model, "n": rounds, "peer": "the published lengths", "rows": lines(found)}
