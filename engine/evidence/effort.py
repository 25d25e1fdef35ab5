"""What every contender had to measure before it could allocate, in one unit: recipes x images x sampler steps."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from engine.core.errors import InputError
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


def efforts(studied: Studied, known: Mapping[str, Scores], contenders: Container[str]) -> list[Effort]:
    """Everything that was measured before the contest's contenders could allocate, for all budgets together.

    Args:
        studied: the study ours learns from.
        known: provider -> scores at hand; ours starts from layers measured alone where those are among them.
        contenders: those that take part.

    Raises:
        InputError: scores do not say how many images and steps they took.
    """
    protocol = studied.protocol
    study = ("trials of the study", len(studied.table), protocol.images, protocol.steps)
    found = [Effort(name, *study) for name in (OURS, *FROM_TRIALS)]
    if MEASURED in known:
        count = sum(map(len, known[MEASURED].layers.values()))
        alone = ("layers one at a time", count, _said(known[MEASURED], "images"), _said(known[MEASURED], "steps"))
        found += [Effort(name, *alone) for name in (OURS, *FROM_MEASURED)]
    if CUMULATIVE in known:
        found.append(Effort(THRESHOLD, "layers alone and one after another",
                            *(_said(known[CUMULATIVE], what) for what in ("evaluations", "images", "steps"))))
    return [e for e in found if e.contender in contenders]


def _said(scores: Scores, what: str) -> int:
    text = scores.about.get(what, "")
    if not text.isdecimal():
        raise InputError(f"The scores of {scores.provider} do not say how many {what} they took; measure them again.")
    return int(text)
