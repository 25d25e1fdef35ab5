"""Scores that no trial supports: options that hardly any trial held at a layer, whose score follows from a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from engine.allocate.problem import Limits
from engine.core.option import FP16, Option
from engine.core.record import Scores

EXTRAPOLATED = "extrapolated_options"


def extrapolated(scores: Scores) -> Mapping[str, tuple[str, ...]]:
    """Choice -> the options whose score follows from a model, not from trials that held them."""
    text = scores.about.get(EXTRAPOLATED, "")
    if not text:
        return {}
    try:
        found = json.loads(text)
        return {str(name): tuple(str(o) for o in options) for name, options in found.items()}
    except (ValueError, AttributeError, TypeError):
        return {}


def with_support(scores: Scores, found: Mapping[str, Scores]) -> Scores:
    """The same scores, saying what is extrapolated if other scores of the very same trials do and these do not."""
    digest = scores.about.get("digest")
    said = next((s.about[EXTRAPOLATED] for s in found.values()
                 if EXTRAPOLATED in s.about and s.about.get("digest") == digest), None)
    if not digest or said is None or EXTRAPOLATED in scores.about:
        return scores
    return replace(scores, about={**scores.about, EXTRAPOLATED: said})


def supported(scores: Scores, limits: Limits) -> Scores:
    """The same scores without what is extrapolated, so that nothing is allocated by it.

    A layer keeps all its scores where it is pinned, or where no trial supports any of the options on offer.
    """
    beyond = extrapolated(scores)
    wanted = None if limits.options is None else {str(o) for o in limits.options}
    layers = {}
    for name, row in scores.layers.items():
        known = {o: damage for o, damage in row.items() if o not in beyond.get(name, ())}
        offered = [o for o in known if o != str(FP16) and (wanted is None or o in wanted)]
        layers[name] = known if offered and name not in limits.pinned else row
    return replace(scores, layers=layers)


def unsupported(scores: Scores, options: Mapping[str, Option]) -> dict[str, str]:
    """Choice -> its option, where a recipe's options are extrapolated all the same: pinned, or nothing else on offer.
    """
    beyond = extrapolated(scores)
    return {name: str(option) for name, option in options.items() if str(option) in beyond.get(name, ())}
