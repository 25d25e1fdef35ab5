"""What every contender had to measure before it could allocate, in one unit: recipes x images x sampler steps."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from engine.core.record import Scores
from engine.evidence.contest import MEASURED, OURS
from engine.evidence.studied import Studied
from engine.providers.cumulative import PROVIDER as CUMULATIVE

THRESHOLD = "threshold"
FROM_MEASURED = ("measured-greedy", "measured, knapsack")
FROM_TRIALS = ("faithful, layers", "faithful, blocks")


@dataclass(frozen=True, slots=True)
class Effort:
    """One thing a contender needs; what needs nothing measured has no record.

    Attributes:
        contender: by name.
        what: was measured.
        recipes, images, steps: how many; full precision's own images are left out, since everyone needs them.
    """

    contender: str
    what: str
    recipes: int
    images: int
    steps: int

    @property
    def image_steps(self) -> int:
        """Sampler steps of single images: the unit of time, whatever the recipe."""
        return self.recipes * self.images * self.steps


def efforts(studied: Studied, known: Mapping[str, Scores], judged: Iterable[Effort],
            contenders: Container[str]) -> list[Effort]:
    """Everything that was measured for the contest's contenders, for all budgets together.

    Args:
        studied: the study ours learns from.
        known: provider -> scores at hand; ours starts from layers measured alone where those are among them.
        judged: the recipes judged on calibration images.
        contenders: those that take part.
    """
    protocol = studied.protocol
    study = ("trials of the study", len(studied.table), protocol.images, protocol.steps)
    found = [Effort(name, *study) for name in (OURS, *FROM_TRIALS)]
    if MEASURED in known:
        about, rows = known[MEASURED].about, known[MEASURED].layers
        alone = ("layers one at a time", sum(map(len, rows.values())), int(about["images"]), int(about["steps"]))
        found += [Effort(name, *alone) for name in (OURS, *FROM_MEASURED)]
    if CUMULATIVE in known:
        about = known[CUMULATIVE].about
        found.append(Effort(THRESHOLD, "layers alone and one after another", int(about["evaluations"]),
                            int(about["images"]), int(about["steps"])))
    return [e for e in (*found, *judged) if e.contender in contenders]
