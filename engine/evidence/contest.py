"""The contenders: for every byte budget our recipes, every baseline's, and the uniform ones, over the same options.

Ours are several candidates around the predicted optimum, of which calibration images choose one, as they choose the
best random draw: recipes of nearly equal prediction differ by more than the prediction can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.advisor import Advisor
from engine.allocate.allocation import Allocation
from engine.allocate.allocators import allocate
from engine.allocate.baselines import random_recipes, uniforms
from engine.allocate.blocks import PAPER
from engine.allocate.budget import bits_budget
from engine.allocate.faithful import faithful
from engine.allocate.knapsack import knapsack
from engine.allocate.problem import Limits, Problem, blind_scores, joint_problem, layer_problem
from engine.allocate.support import EXTRAPOLATED, supported
from engine.analysis.scoring import BlockScores
from engine.core.errors import InputError
from engine.core.graph import Structure
from engine.core.jsonrecord import to_json
from engine.core.recipe import Recipe, uniform
from engine.core.record import Scores
from engine.core.seeds import derive
from engine.core.sizes import recipe_bytes
from engine.evidence.blocks import joint_costs
from engine.evidence.near import shaken
from engine.providers.table import completed

OURS = "ours"
UNIFORM = "uniform"
EVERYONE = "every contender"
RANDOM = "best of random"
NEAR_EQUAL = 0.002  # of the bytes: differences no image shows
EQUAL = ("uaq-3", "kmeans_a-3", "uaq-4", "kmeans_a-4")
BITS = (3.25, 3.5, 4.0)
LOW = (2.75, 3.0)
DRAWS = 8
VERSION = 3  # of how contenders are made: raised where that changes but none of the numbers below
CANDIDATES = 8  # of ours
SHAKE = 0.12  # deviation of the log damages of those that are shaken
MEASURED = "measured"
MIDDLING = (3, 4)  # bits
FOUR = 4
OPTIMUM, ALONE = "predicted optimum", "layers measured alone"  # notes of two of our candidates
# baseline -> whose scores it allocates by; MPQ-Diff's have a comparison of their own
BASELINES = {"weight-error": "weight-error", "measured-greedy": MEASURED, "measured, knapsack": MEASURED,
             "threshold": "cumulative"}


@dataclass(frozen=True, slots=True)
class Budget:
    """One size at which everything is compared.

    Attributes:
        name: "bytes of uaq-3" or "3.5 bits".
        group: "equal" (to a uniform recipe), "bits", or "low".
        bytes: at most.
        option: the uniform recipe it equals, "" otherwise.
        shares: name of the budget, smaller by less than `NEAR_EQUAL`, whose recipes count here too; only the uniform
            recipe is then its own. "" = it is solved itself.
    """

    name: str
    group: str
    bytes: int
    option: str = ""
    shares: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One recipe in the contest; a budget's `OURS`, `UNIFORM` and `RANDOM` entries are several, of which one counts.

    Attributes:
        budget: its name.
        contender: OURS, UNIFORM, RANDOM, or an allocator by name.
        recipe: what is measured.
        bytes: stored bytes.
        note: which uniform, which draw, the bound's gap.
    """

    budget: str
    contender: str
    recipe: Recipe
    bytes: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A contender that has no recipe at a budget, and why; `EVERYONE` where nothing fits."""

    budget: str
    contender: str
    why: str


@dataclass(frozen=True, slots=True)
class Sources:
    """What the contenders know.

    Attributes:
        advisor: the fitted predictor.
        found: provider -> scores, as lie beside the model.
        operation: scores of single layers by the networks' embeddings; None without networks.
        blocks: joint scores of blocks; empty without networks.
    """

    advisor: Advisor
    found: Mapping[str, Scores]
    operation: Scores | None = None
    blocks: Sequence[BlockScores] = ()


def fingerprint(studied_digest: str, sources: Sources, sizes: Sequence[Budget]) -> str:
    """12 hex digits over all that determines the entries: trials, predictor, every score used by its numbers (rounded
    below what fitting and reading again can change), sizes, and how many of what are tried."""
    predictor = sources.advisor.predictor
    used = {name: sources.found[name] for name in set(BASELINES.values()) & set(sources.found)}
    parts = [f"{name} {derive(s.unit, sorted(s.about.items()), *_numbers(s))}" for name, s in sorted(used.items())]
    fitted = (str(predictor.kind), sorted(map(str, predictor.members)), to_json(predictor.training),
              sources.advisor.options(), derive(*_numbers(sources.advisor.scores)))
    constants = (VERSION, DRAWS, CANDIDATES, SHAKE, MIDDLING, tuple(sizes))
    return f"{derive('contenders', constants, studied_digest, fitted, *parts):016x}"[:12]


def _numbers(scores: Scores) -> Iterator[str]:
    for table in (scores.layers, scores.blocks):
        for name, row in sorted(table.items()):
            yield from (f"{name} {option} {damage:.9g}" for option, damage in sorted(row.items()))


def budgets(structure: Structure) -> list[Budget]:
    """At the bytes of uniform recipes, at round bits, and below 3.1 bits."""
    sized = {text: recipe_bytes(structure, uniform(structure, text).options) for text in EQUAL}
    equal = [Budget(f"bytes of {text}", "equal", size, text) for text, size in sized.items()]
    every = [*equal, *(Budget(f"{b:g} bits", "bits", bits_budget(b, structure)) for b in BITS),
             *(Budget(f"{b:g} bits", "low", bits_budget(b, structure)) for b in LOW)]
    shares: dict[str, str] = {}
    solved: list[Budget] = []
    for budget in sorted(every, key=lambda b: b.bytes):
        near = next((s for s in solved if budget.bytes - s.bytes < NEAR_EQUAL * budget.bytes), None)
        if near is None:
            solved.append(budget)
        shares[budget.name] = near.name if near else ""
    return [replace(b, shares=shares[b.name]) for b in every]


def at_budget(entries: Sequence[Entry], budget: Budget) -> list[Entry]:
    """The entries that count at a budget: its own, and those it shares with a smaller one, uniform ones aside."""
    return [e for e in entries if e.budget == budget.name or (e.budget == budget.shares and e.contender != UNIFORM)]


def entries(sources: Sources, budget: Budget, seed: int = 0) -> Iterator[Entry | Dropped]:
    """All contenders' recipes at one budget (of one that shares another's, the uniform ones alone), and who has none
    there."""
    advisor = sources.advisor
    limits = Limits(options=advisor.options(), keep_untouched=False)
    structure = advisor.structure
    try:
        blind = layer_problem(structure, blind_scores(structure), budget.bytes, limits)
    except InputError as problem:
        yield Dropped(budget.name, EVERYONE, str(problem))
        return
    for found in uniforms(blind).values():
        option = str(found.recipe.provenance["allocator"]).removeprefix(f"{UNIFORM} ")
        if not budget.option or option == budget.option:
            yield Entry(budget.name, UNIFORM, found.recipe, found.bytes, option)
    if budget.shares:
        return
    yield from _ours(sources, budget, limits, seed)
    makers = _makers(sources, limits)
    for name, provider in BASELINES.items():
        if name not in makers:
            yield Dropped(budget.name, name, f"No scores of {provider} are at hand.")
    for name, make in makers.items():
        try:
            found = make(budget.bytes)
        except InputError as problem:
            yield Dropped(budget.name, name, str(problem))
            continue
        yield Entry(budget.name, name, found.recipe, found.bytes, f"gap {100 * found.gap:.2g} %")
    pool, drawn_from = _drawn_from(structure, budget, limits)
    for number, found in enumerate(random_recipes(drawn_from, DRAWS, seed)):
        yield Entry(budget.name, RANDOM, found.recipe, found.bytes, f"draw {number + 1} of {DRAWS} from {pool}")


def _ours(sources: Sources, budget: Budget, limits: Limits, seed: int) -> Iterator[Entry]:
    """The recipe of the predictor's table, that of the layers measured alone (where they were, since what the
    predictor adds to them is doubtful at some budgets), and recipes of the table shaken."""
    advisor = sources.advisor
    tables = [(OPTIMUM, advisor.scores)]
    if MEASURED in sources.found:
        tables.append((ALONE, completed(advisor.structure, sources.found, MEASURED)))
    for number in range(CANDIDATES - len(tables)):
        rng = np.random.default_rng(derive("contest", budget.name, seed, number))
        tables.append((f"shaken {number + 1}", shaken(advisor.scores, SHAKE, rng)))
    for note, scores in tables:
        try:
            problem = layer_problem(advisor.structure, _seen(advisor, scores, limits), budget.bytes, limits)
        except InputError:  # too small for what was seen; with all options it fits, or this budget has no contest
            problem = layer_problem(advisor.structure, scores, budget.bytes, limits)
        found = knapsack(problem)
        yield Entry(budget.name, OURS, found.recipe, found.bytes, note)


def fours(advisor: Advisor) -> Iterator[Entry]:
    """Every uniform recipe of 4 bits, whatever its size: what our 3.5 bits are held against."""
    for option in advisor.options():
        if option.bits == FOUR:
            recipe = uniform(advisor.structure, str(option))
            yield Entry("", UNIFORM, recipe, recipe_bytes(advisor.structure, recipe.options), str(option))


def _seen(advisor: Advisor, scores: Scores, limits: Limits) -> Scores:
    """Without options that hardly any trial held at a layer, where their damage is extrapolated."""
    about = {**scores.about, EXTRAPOLATED: advisor.scores.about[EXTRAPOLATED]}
    return supported(replace(scores, about=about), limits)


def _drawn_from(structure: Structure, budget: Budget, limits: Limits) -> tuple[str, Problem]:
    """What random recipes are drawn from: options of 3 and 4 bits where those fit, which is kinder to chance than
    mixing 2 and 8 bits; else all."""
    middling = replace(limits, options=tuple(o for o in limits.options or () if o.bits in MIDDLING))
    try:
        pool = f"options of {' and '.join(map(str, MIDDLING))} bits"
        return pool, layer_problem(structure, blind_scores(structure), budget.bytes, middling)
    except InputError:
        return "all options", layer_problem(structure, blind_scores(structure), budget.bytes, limits)


def _makers(sources: Sources, limits: Limits) -> dict[str, Callable[[int], Allocation]]:
    """Contender -> budget in bytes -> its recipe."""
    advisor = sources.advisor
    structure = advisor.structure

    def by(scores: Scores) -> Callable[[int], Problem]:
        return lambda size: layer_problem(structure, scores, size, limits)

    makers: dict[str, Callable[[int], Allocation]] = {
        "size-only": lambda size: allocate(by(blind_scores(structure))(size), "size-only"),
    }
    known = {name: completed(structure, sources.found, name) for name in sources.found}
    if MEASURED in known:
        makers["measured-greedy"] = lambda size: allocate(by(known[MEASURED])(size), "measured-greedy")
        makers["measured, knapsack"] = lambda size: knapsack(by(known[MEASURED])(size))
    if "cumulative" in known:
        makers["threshold"] = lambda size: allocate(
            layer_problem(structure, known["cumulative"], size, Limits()), "threshold")
    if "weight-error" in known:
        makers["weight-error"] = lambda size: allocate(by(known["weight-error"])(size), "weight-error")
    if sources.operation is not None:
        operation, paper = sources.operation, replace(limits, options=PAPER)

        def by_layers(size: int) -> Allocation:
            """Over the paper's options, like the blocks; below their sizes over all."""
            try:
                return faithful(layer_problem(structure, operation, size, paper))
            except InputError:
                return faithful(by(operation)(size))

        makers["faithful, layers"] = by_layers
    if sources.blocks:
        joints = joint_costs(sources.blocks)
        makers["faithful, blocks"] = lambda size: faithful(
            joint_problem(structure, joints, size, limits, "gnn-block"))
    return makers

