"""Decisions as data: which scores and allocators there are for a model, the recipe of a budget, and the page's plan.

Nothing here needs torch: everything follows from the structure and the scores at hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from engine.allocate.allocation import Allocation
from engine.allocate.allocators import ALLOCATORS, Settings, allocate
from engine.allocate.blocks import JOINT, block_files, block_problem, find_blocks
from engine.allocate.budget import bits_budget, layers_budget, parse_budget
from engine.allocate.path import Path, lagrangian_path
from engine.allocate.problem import JointCosts, Limits, Problem, blind_scores, layer_problem
from engine.allocate.support import extrapolated, supported, with_support
from engine.core.errors import InputError
from engine.core.graph import Structure
from engine.core.option import Option
from engine.core.record import Scores
from engine.core.sizes import full_bytes, recipe_bytes
from engine.providers.table import IMAGE_MSE, damage_table
from explorer.gauge import Gauge, gauge_of
from explorer.kept import Kept
from explorer.overlays import TITLES
from explorer.wording import inside, megabytes

PREFERRED = ("predictor", "measured", "weight-error")
OPERATION = "gnn-operation"  # scores of single layers by a predictor's networks
BLIND = "none"
BLIND_TITLE = "No scores, sizes alone"
TIME_LIMIT_S = 4.0
PROBLEMS_KEPT, ANSWERS_KEPT = 16, 256  # per model; a problem takes half a megabyte on the smallest
Asked = tuple[str, tuple[tuple[str, Option], ...]]  # provider and pinned layers
LIVE = "lagrangian"
DEFAULT_ALLOCATOR = "knapsack"
ALLOCATOR_TITLES = {
    "knapsack": "Best (integer program)", "lagrangian": "Best (fast path)", "faithful": "Qua²SeDiMo, layer by layer",
    "faithful-blocks": "Qua²SeDiMo, block by block",
    "uniform": "Best uniform", "weight-error": "By weight error", "measured-greedy": "Greedy by measured damage",
    "threshold": "Apple's threshold rule", "size-only": "By size alone", "mpq-diff": "MPQ-Diff (linear program)",
    "mpq-diff-useful": "MPQ-Diff, knapsack", "mpq-flat": "MPQ-Diff, no scores",
    "mpq-projection": "MPQ-Diff, projection", "random": "Best of 64 random",
}
_FITS = re.compile(r"\s*fits?\s+(\d+(?:\.\d*)?|\.\d+)\s*([kmg]i?b)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """An allocation, judged by the scores that were chosen (an allocator may insist on others of its own)."""

    allocation: Allocation
    damage: float
    quality: str


@dataclass(eq=False)
class Decider:
    """The decisions of one model; solved problems are kept, so that asking twice costs nothing.

    Attributes:
        structure: the model.
        scores: provider -> scores, as they were found.
        working: bytes of activations while it runs, asked for where a budget names a card.
    """

    structure: Structure
    scores: Mapping[str, Scores]
    working: Callable[[], int] = lambda: 0
    _tables: dict[str, Scores] = field(default_factory=dict)
    _blocks: Kept[tuple[int, ...], tuple[JointCosts, ...]] = field(default_factory=lambda: Kept(1))
    _problems: Kept[Asked, Problem] = field(default_factory=lambda: Kept(PROBLEMS_KEPT))
    _paths: Kept[Asked, Path] = field(default_factory=lambda: Kept(PROBLEMS_KEPT))
    _answers: Kept[tuple[object, ...], Allocation] = field(default_factory=lambda: Kept(ANSWERS_KEPT))

    # --- what there is to choose from ----------------------------------------------------------------------------

    @property
    def providers(self) -> list[tuple[str, str]]:
        """(title, name) of the scores an allocator can go by, the most trustworthy first."""
        known = [n for n in PREFERRED if n in self.scores]
        known += [n for n in self.scores if n not in known]
        usable = [n for n in known if self.scores[n].is_damage and self._complete(n)]
        return [(TITLES.get(n, (n,))[0], n) for n in usable] or [(BLIND_TITLE, BLIND)]

    def provider(self, wanted: str = "") -> str:
        """The wanted provider if it is there, else the first."""
        names = [name for _, name in self.providers]
        return wanted if wanted in names else names[0]

    def allocators(self, provider: str) -> list[tuple[str, str]]:
        """(title, name) of every allocator that has what it needs."""
        blind = provider == BLIND
        return [(ALLOCATOR_TITLES.get(name, name), name) for name, row in ALLOCATORS.items()
                if (not row.provider or self._complete(row.provider)) and not (blind and row.scored and name != LIVE)]

    def missing(self) -> str:
        """One sentence about the allocators whose own scores are not here; "" where all are."""
        lacking = [f"{ALLOCATOR_TITLES.get(name, name)} (`{self._maker(row.provider)}`)"
                   for name, row in ALLOCATORS.items() if row.provider and not self._complete(row.provider)]
        return f"Not on offer until their scores are measured: {', '.join(lacking)}." if lacking else ""

    def _maker(self, provider: str) -> str:
        """The command that makes these scores."""
        if provider == JOINT:
            return f"allocate {self.structure.model} --method faithful-blocks --sweep"
        return f"sensitivity {self.structure.model} --provider {provider.removesuffix('-linear')}"

    def source(self, allocator: str, provider: str) -> str:
        """Whose scores an allocator goes by: those it insists on, those it prefers and that are here, or the chosen."""
        row = ALLOCATORS[allocator]
        return row.provider or (row.preferred if self._complete(row.preferred) else provider)

    def _joints(self) -> tuple[JointCosts, ...]:
        """Joint costs of blocks by the networks whose scores of layers are here; () where nobody made them yet."""
        operation = self.scores.get(OPERATION)
        if operation is None:
            return ()
        stamps = tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in block_files(self.structure))
        found = self._blocks.get(stamps)
        return found if found is not None else self._blocks.put(stamps, find_blocks(self.structure, operation) or ())

    def _complete(self, name: str) -> bool:
        """Whether every choice has at least one score of this provider."""
        if name == JOINT:
            return bool(self._joints())
        found = self.scores.get(name)
        return found is not None and all(found.layers.get(x.name) for x in self.structure.choices)

    # --- scores, problems ----------------------------------------------------------------------------------------

    def table(self, provider: str) -> Scores:
        """Scores for every option: measured damages are completed by weight error, as the additive table has them."""
        if provider not in self._tables:
            if provider == BLIND:
                self._tables[provider] = blind_scores(self.structure)
            else:
                found = with_support(self.scores[provider], self.scores)
                rows = damage_table(self.structure, self.scores, provider).values if found.unit == IMAGE_MSE else {}
                layers = {c: dict(r) for c, r in rows.items()} or {c: dict(r) for c, r in found.layers.items()}
                self._tables[provider] = replace(found, layers=layers)
        return self._tables[provider]

    def gauge(self, provider: str) -> Gauge:
        """How this provider's damage reads as quality."""
        return Gauge() if provider == BLIND else gauge_of(self.scores[provider])

    def problem(self, provider: str, pinned: Mapping[str, Option]) -> Problem:
        """The allocation problem without a budget (everything fits); options no trial held are left out.

        Raises:
            InputError: protected layers hold an option that is never allocated.
        """
        key = (provider, tuple(sorted(pinned.items())))
        found = self._problems.get(key)
        if found is None:
            limits, size = Limits(pinned=dict(pinned)), full_bytes(self.structure)
            found = self._problems.put(key, block_problem(self.structure, self._joints(), size, limits)
                                       if provider == JOINT else
                                       layer_problem(self.structure, supported(self.table(provider), limits), size,
                                                     limits))
        return found

    def path(self, provider: str, pinned: Mapping[str, Option]) -> Path:
        """Every budget's best recipe, each in about a millisecond.

        Raises:
            InputError: see `problem`.
        """
        key = (provider, tuple(sorted(pinned.items())))
        return self._paths.get(key) or self._paths.put(key, lagrangian_path(self.problem(provider, pinned)))

    # --- answers -------------------------------------------------------------------------------------------------

    def solve(self, provider: str, allocator: str, budget: int, pinned: Mapping[str, Option],
              settings: Settings | None = None) -> Answer:
        """The recipe of an allocator within a budget, judged by the provider's scores.

        Raises:
            InputError: the budget is impossible, or this allocator does not work with what is here; one sentence.
        """
        if allocator not in [name for _, name in self.allocators(provider)]:
            row = ALLOCATORS.get(allocator)
            how = f"make them with {self._maker(row.provider)}, or choose another" if row and row.provider else \
                "choose another"
            raise InputError(f"{ALLOCATOR_TITLES.get(allocator, 'This allocator')} needs scores that "
                             f"{self.structure.model} does not have; {how}.")
        source = self.source(allocator, provider)
        settings = settings or Settings(time_limit_s=TIME_LIMIT_S)
        key = (source, allocator, budget, tuple(sorted(pinned.items())), settings)
        found = self._answers.get(key)
        if found is None:
            if budget > full_bytes(self.structure):
                bits_budget(8 * budget / self._weights, self.structure)  # its sentence
            problem = self.problem(source, pinned).with_budget(budget)
            found = self._answers.put(key, self.path(source, pinned).at(budget) if allocator == LIVE
                                      else allocate(problem, allocator, settings))
        damage = self.damage(provider, found.recipe.options)
        return Answer(found, damage if damage is not None else found.cost,
                      self.gauge(provider).text(damage) if damage is not None else "")

    def damage(self, provider: str, options: Mapping[str, Option]) -> float | None:
        """Summed damage of any recipe by this provider; None where an option has no score."""
        rows, total = self.table(provider).layers, 0.0
        for name, option in options.items():
            value = rows.get(name, {}).get(str(option), 0.0 if option.is_untouched else None)
            if value is None:
                return None
            total += value
        return total

    def budget(self, text: object) -> int:
        """Bytes of a typed budget: `3.5`, `3.5 bits`, `3 MB`, `40 %`, or `fits 8 GB` (the whole pipeline
        and its activations).

        Raises:
            InputError, ModelError: it is none, or impossible; one sentence.
        """
        words = str(text or "").strip().replace(",", ".")
        fits = _FITS.fullmatch(words)
        if fits:
            scale = {"k": 1, "m": 2, "g": 3}[fits[2][0].lower()]
            room = float(fits[1]) * (1024 if "i" in fits[2].lower() else 1000) ** scale
            return layers_budget(int(room), self.structure, self.working())
        if re.fullmatch(r"\d+(\.\d*)?|\.\d+", words):
            return bits_budget(float(words), self.structure)
        return parse_budget(words, self.structure)

    @property
    def _weights(self) -> int:
        return sum(layer.weights for layer in self.structure.layers)

    # --- for the page and for people -----------------------------------------------------------------------------

    def plan(self, provider: str) -> str:
        """What the page needs to find the best recipe of any budget by itself, as compact JSON."""
        problem, gauge = self.problem(provider, {}), self.gauge(provider)
        costs = {u.layers[0]: {str(c[0]): x for c, x in zip(u.candidates, u.costs, strict=True)}
                 for u in problem.units}
        others = sum(c.bytes for c in self.structure.components)
        data = {
            "model": self.structure.model, "provider": provider, "costs": costs, "gauge": gauge.as_data(),
            "smallest": problem.smallest_bytes, "weights": problem.weights,
            "rest": others and others + self.structure.other_weights * self.structure.precision_bits // 8,
            "providers": self.providers, "trust": trust_line(self.scores.get(provider)),
            "allocators": [[title, name, ALLOCATORS[name].summary] for title, name in self.allocators(provider)],
        }
        return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    def said(self, provider: str, allocator: str, answer: Answer) -> str:
        """What was decided, as Markdown."""
        found = answer.allocation
        size = recipe_bytes(self.structure, found.recipe.options)
        share = 100 * size / full_bytes(self.structure)
        lines = [f"**{ALLOCATOR_TITLES.get(allocator, allocator)}**: {found.bits_per_weight:.2f} bits per weight, "
                 f"{megabytes(size)}, {share:.1f} % of full"
                 + (f", predicted {answer.quality}." if answer.quality else ".")]
        source = self.source(allocator, provider)
        if ALLOCATORS[allocator].scored and source == provider and provider != BLIND:
            proof = "proved the best for these scores" if found.proved else \
                f"at most {100 * found.gap:.2f} % above the least damage that any recipe of this size could have"
            lines.append(f"By {inside(TITLES.get(provider, (provider,))[0])}: {proof}.")
        return " ".join(lines)


def pins_of(structure: Structure, options: Mapping[str, Option], protected: tuple[str, ...]) -> dict[str, Option]:
    """The layers of protected blocks with the options they keep."""
    ids = set(protected)
    names = {n for b in structure.blocks if b.id in ids for n in b.layers} | ids
    return {x.name: options[x.name] for x in structure.choices if x.name in names and x.name in options}


def trust_line(scores: Scores | None) -> str:
    """How far the chosen scores can be believed, in words."""
    from explorer.graphview.overlay import trust_text

    if scores is None:
        return "No scores of this model are here: budgets follow sizes alone, and nothing is predicted."
    beyond = sum(len(v) for v in extrapolated(scores).values())
    text = trust_text(scores.trust)
    return text + (f" · {beyond} scores are extrapolated and not used" if beyond else "")

