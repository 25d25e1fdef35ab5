"""Which prompts (or class labels) a study, a calibration and a final comparison may use: split once, hashed, disjoint.

Captions come from a `captions.json` inside or beside the model's directory (as the demo models have), else from a
neutral list; class labels from the model. Final comparisons use prompts and seeds that nothing else has seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.core.errors import InputError
from engine.core.files import read_json
from engine.core.seeds import MAX_SEED, derive
from engine.live.request import Request

if TYPE_CHECKING:
    from engine.live.model import Model

VERSION = 1
NEUTRAL = Path(__file__).with_name("prompts.txt")
PARTS = ("study", "calibration", "final")
# Of ten prompts four are for studies, two for calibration, four for final comparisons.
SHARES = (0.4, 0.2, 0.4)
SUGGESTED_CHARACTERS = 24


@dataclass(frozen=True, slots=True)
class PromptSplit:
    """Disjoint sets of prompts.

    Attributes:
        kind: "text", "class" or "none".
        study, calibration, final: prompts (or class labels as text); empty where the model takes neither.
        source: where they come from.
    """

    kind: str
    study: tuple[str, ...]
    calibration: tuple[str, ...]
    final: tuple[str, ...]
    source: str

    @property
    def hash(self) -> str:
        """12 hex digits over all prompts and their parts; goes into every record made with them."""
        text = json.dumps([VERSION, self.kind, self.study, self.calibration, self.final], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def part(self, name: str) -> tuple[str, ...]:
        """One of `PARTS`.

        Raises:
            InputError: there is no such part.
        """
        if name not in PARTS:
            raise InputError(f"Prompts are split into {', '.join(PARTS)}; there is no part {name[:40]!r}.")
        found: tuple[str, ...] = getattr(self, name)
        return found


def split_prompts(kind: str, prompts: Sequence[str], source: str) -> PromptSplit:
    """Deal prompts into the parts by the hash of each, so that adding one moves no other."""
    parts: dict[str, list[str]] = {name: [] for name in PARTS}
    for prompt in sorted(dict.fromkeys(prompts), key=lambda p: derive("prompt order", p)):
        place = derive("prompt split", prompt) / 2**63
        name = PARTS[0] if place < SHARES[0] else PARTS[1] if place < SHARES[0] + SHARES[1] else PARTS[2]
        parts[name].append(prompt)
    return PromptSplit(kind, *(tuple(parts[name]) for name in PARTS), source)


def split_of(model: Model) -> PromptSplit:
    """The split of an open model."""
    if model.limits.conditioning == "class":
        return split_prompts("class", [str(n) for n in range(model.limits.labels)], "class labels")
    if model.limits.conditioning == "none":
        return split_prompts("none", [], "")
    return text_split(model.directory)


def text_split(directory: Path | None) -> PromptSplit:
    """The split of a text-conditioned model whose pipeline lies in a directory (or anywhere, if None)."""
    captions = find_captions(directory)
    if captions:
        return split_prompts("text", read_captions(captions), captions.parent.name)
    return split_prompts("text", NEUTRAL.read_text().splitlines(), "neutral prompts")


def find_captions(directory: Path | None) -> Path | None:
    """The `captions.json` inside or beside a model's directory."""
    if directory is None:
        return None
    return next((path for place in (directory, directory.parent) for path in
                 [place / "captions.json", *sorted(place.glob("*/captions.json"))] if path.is_file()), None)


def read_captions(path: Path) -> list[str]:
    """The captions of a `captions.json`: a list of texts, or an object with a list of objects with `caption`.

    Raises:
        InputError: it is neither.
    """
    data = read_json(path, InputError)
    rows = next((v for v in data.values() if isinstance(v, list)), []) if isinstance(data, dict) else data
    captions = [row.get("caption") if isinstance(row, dict) else row for row in rows] if isinstance(rows, list) else []
    if not captions or not all(isinstance(c, str) for c in captions):
        raise InputError(f"{path} holds no captions; expected a list of texts.")
    return [str(c) for c in captions]


def request_for(split: PromptSplit, part: str, count: int, *, first: int = 0, **settings: Any) -> Request:
    """The request for images `first` to `first + count` of a part: fixed prompts and seeds, the same anywhere.

    Image i has prompt i of the part (beginning again after the last) and a seed derived from split, part and i.

    Args:
        split: see `split_of`.
        part: "study", "calibration" or "final".
        count: images.
        first: index of the first, to take other images of the same part.
        settings: steps, guidance, ... as in `Request`.
    """
    prompts = split.part(part)
    wanted = range(first, first + count)
    seeds = tuple(derive("image", split.hash, part, i) % (MAX_SEED + 1) for i in wanted)
    chosen = tuple(prompts[i % len(prompts)] for i in wanted) if prompts else ()
    if split.kind == "class":
        return Request(labels=tuple(int(p) for p in chosen), seeds=seeds, **settings)
    return Request(prompts=chosen or ("",), seeds=seeds, **settings)


def suggested(model: Model, count: int = 24) -> tuple[str, ...]:
    """Prompts to offer a user: short ones of the study part; none for models without text."""
    return _short(split_of(model).study, count) if model.limits.conditioning == "text" else ()


def first_prompt(name: str) -> str:
    """The prompt a model is first shown with, from its name or path alone (nothing is loaded)."""
    from engine.models.catalog import MODELS, local_directory, shipped_directory

    directory = (local_directory(MODELS[name]) or shipped_directory(MODELS[name])) if name in MODELS else Path(name)
    short = _short(text_split(directory).study, 1)
    return short[0] if short else ""


def _short(prompts: Sequence[str], count: int) -> tuple[str, ...]:
    short = [p for p in prompts if len(p) <= SUGGESTED_CHARACTERS]
    return tuple((short or list(prompts))[:count])
