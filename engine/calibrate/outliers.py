"""The outlier score of every layer as scores: how far the channels of its inputs are spread (DMQ's criterion).

Not a damage: it says where one range per tensor is a bad fit, whatever the weights are stored at. It is written under
one option because scores are read by option; a block has the score of its worst layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.calibrate.capture import Captured, CapturePlan, capture
from engine.calibrate.ranges import Ranges, collect_ranges
from engine.core.graph import Structure
from engine.core.recipe import Recipe, model_ref
from engine.core.record import DIAGNOSIS, Scores, Trust
from engine.live.apply import applied
from engine.live.cancel import Cancel
from engine.live.model import Model
from engine.providers.progress import Progress

PROVIDER = "outliers"
UNIT = "largest / median channel peak of the inputs"
OPTION = "uaq-4"


def outliers(model: Model, plan: CapturePlan | None = None, *, directory: Path | None = None,
             cancel: Cancel | None = None, command: str = "") -> Iterator[Progress | Scores]:
    """Capture trajectories at full precision and score every layer that is executed; ends with `Scores`.

    Args:
        model: any; its recipe is put back at the end.
        plan: which trajectories.
        directory: where they are kept; None keeps them in memory.
        cancel: asked at every step.
        command: goes into the record.
    """
    with applied(model, Recipe(model_ref(model.structure), {})):
        captured: Captured | None = None
        for event in capture(model, plan, directory=directory, cancel=cancel):
            if isinstance(event, Captured):
                captured = event
            else:
                yield event
        assert captured is not None
        for step in collect_ranges(model, captured, cancel=cancel):
            yield outlier_scores(model.structure, step, command) if isinstance(step, Ranges) else step


def outlier_scores(structure: Structure, ranges: Ranges, command: str = "") -> Scores:
    """Scores from ranges; layers that were never executed, and tied copies, are left out."""
    found = ranges.outlier_scores()
    layers = {x.name: {OPTION: found[x.name]} for x in structure.choices if x.name in found}
    blocks = {b.id: {OPTION: max(found[n] for n in b.layers if n in found)} for b in structure.blocks
              if any(n in found for n in b.layers)}
    note = f"Over {len(ranges.timesteps)} sampling steps; 1 = all channels alike. It does not depend on the option."
    trust = Trust(images=int(ranges.about.get("images", 0)), note=note)
    return Scores(PROVIDER, ranges.model, UNIT, layers, blocks, trust, command, {**ranges.about, "kind": DIAGNOSIS})
