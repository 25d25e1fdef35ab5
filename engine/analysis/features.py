"""Node features (Qua2SeDiMo section 2.1, made generic): one row per node and option, used to train, score and explain.

There is one table and one look-up, so the features a predictor is trained on are those it is scored on (section 7.3,
slips 6 and 7). Codes are one-hot columns: an embedding is then a linear map, and attributions reach every column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.analysis.topology import JUNCTION, POSITIONS, Topology
from engine.core.errors import StudyError
from engine.core.graph import Structure
from engine.core.option import BITS, FP16, METHODS, UNTOUCHED_BITS, Option
from engine.core.record import Scores
from engine.core.sizes import sensible_options, stored_bytes

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ERROR_FLOOR = 1e-8  # relative squared error of 8 bits is about 1e-5
DAMAGE = "damage"  # feature group of `with_damage`
SHARE_FLOOR = 1e-3  # of an average layer's damage
WIDTHS = (*BITS, UNTOUCHED_BITS)


@dataclass(frozen=True, slots=True)
class Space:
    """Every option each layer of a model may take, with size and weight error.

    Attributes:
        options: K of them, in table order; untouched is the last.
        offered: [C, K] bool, sensible and with a known error (untouched always).
        sizes: [C, K] stored bytes, tied copies counted.
        errors: [C, K] relative squared weight error, NaN where not offered, 0 where untouched.
        weights: quantizable weights, tied copies counted.
    """

    options: tuple[Option, ...]
    offered: npt.NDArray[np.bool_]
    sizes: Ints
    errors: Floats
    weights: int

    def index(self, option: Option) -> int:
        """Column of an option; ValueError if it is not part of the space."""
        return self.options.index(option)


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """Features of every node under every option.

    Attributes:
        rows: [R, F]; the distinct combinations of node and option.
        row_of: [N, K], row of a node under an option of its choice, -1 where not offered; junctions have one row.
        groups: name -> columns, in order: method, bits, reduction, error, stage, block, unit, type.
    """

    rows: Floats
    row_of: Ints
    groups: dict[str, tuple[int, int]]


def space(structure: Structure, weight_errors: Scores, extra: Sequence[Option] = ()) -> Space:
    """The options of a model whose weight errors are known.

    Args:
        structure: the model.
        weight_errors: of the `weight-error` provider: choice -> option -> sum (w - w')^2 / sum w^2.
        extra: options that must be covered because trials use them.

    Raises:
        StudyError: the errors leave a layer out, or hold NaN.
    """
    known = weight_errors.layers
    for layer in structure.choices:
        row = known.get(layer.name, {})
        if not row or not all(math.isfinite(v) and v >= 0 for v in row.values()):
            raise StudyError(f"The weight errors {'leave out' if not row else 'of'} {layer.name}"
                             f"{' hold NaN' if row else ''}; compute them for {structure.model} again.")
    precision = structure.precision_bits
    sensible = {x.name: sensible_options(x, precision) for x in structure.choices}
    used = {o for x in structure.choices for o in sensible[x.name] if str(o) in known[x.name]} | set(extra)
    order = [Option(row.name, b) for row in METHODS.values() for b in row.bits]
    options = (*(o for o in order if o in used and not o.is_untouched), FP16)
    shape = (len(structure.choices), len(options))
    offered, sizes, errors = np.zeros(shape, bool), np.zeros(shape, np.int64), np.full(shape, np.nan)
    for c, layer in enumerate(structure.choices):
        copies = [x for x in structure.layers if x.choice == layer.name]
        for k, option in enumerate(options):
            sizes[c, k] = sum(stored_bytes(x, option, precision) for x in copies)
            error = 0.0 if option.is_untouched else known[layer.name].get(str(option))
            if error is not None and (option in sensible[layer.name] or option in extra):
                offered[c, k], errors[c, k] = True, error
    return Space(options, offered, sizes, errors, sum(x.weights for x in structure.layers))


def feature_table(graph: Topology, options: Space) -> FeatureTable:
    """Rows for all nodes and offered options."""
    groups = _groups(graph)
    width = max(stop for _, stop in groups.values())
    row_of = np.full((len(graph.node_ids), len(options.options)), -1, np.int64)
    rows: list[Floats] = []
    for node, choice in enumerate(graph.choice_of):
        if choice == JUNCTION:
            row_of[node] = len(rows)
            rows.append(_row(graph, groups, width, node))
            continue
        for k in np.flatnonzero(options.offered[choice]):
            row_of[node, k] = len(rows)
            row = _row(graph, groups, width, node)
            _fill_option(row, groups, options, int(choice), int(k))
            rows.append(row)
    return FeatureTable(np.stack(rows), row_of, groups)


def with_damage(table: FeatureTable, graph: Topology, damage: Floats) -> FeatureTable:
    """The table with a numeric feature "damage" more: fitted damage of each node's option (times the number of
    layers, so that 1 is an average share; tied copies divide a layer's), and its logarithm; 0 where nothing is
    quantized.

    Args:
        table: of all nodes and options.
        graph: the topology.
        damage: [C, K] of an additive model, NaN where not offered.
    """
    width = table.rows.shape[1]
    added = np.zeros((len(table.rows), 2))
    copies = np.bincount(graph.choice_of[graph.choice_of != JUNCTION], minlength=len(graph.choices))
    for node, choice in enumerate(graph.choice_of):
        for k in np.flatnonzero(table.row_of[node] >= 0) if choice != JUNCTION else ():
            share = damage[choice, k] * len(graph.choices) / copies[choice]
            added[table.row_of[node, k]] = share, np.log(share + SHARE_FLOOR)
    return FeatureTable(np.hstack([table.rows, added]), table.row_of, {**table.groups, DAMAGE: (width, width + 2)})


def node_rows(table: FeatureTable, graph: Topology, picks: Ints) -> Ints:
    """Row of every node of every recipe [T, N]; picks: [T, C] option columns.

    Raises:
        StudyError: a recipe uses an option whose weight error is unknown.
    """
    choice = np.where(graph.choice_of == JUNCTION, 0, graph.choice_of)
    rows = table.row_of[np.arange(len(choice)), picks[:, choice]]
    if (rows < 0).any():
        raise StudyError("A recipe uses an option without a known weight error; compute the weight errors again.")
    return rows


def picks_of(options: Space, graph: Topology, recipes: Sequence[Mapping[str, Option]]) -> Ints:
    """Recipes as option columns [T, C]; silent layers are untouched.

    Raises:
        StudyError: a recipe names a layer or option that the model or the space does not have.
    """
    column = {option: k for k, option in enumerate(options.options)}
    index = {name: c for c, name in enumerate(graph.choices)}
    picks = np.full((len(recipes), len(index)), column[FP16], np.int64)
    for t, recipe in enumerate(recipes):
        for name, option in recipe.items():
            if name not in index or option not in column:
                raise StudyError(f"Trial {t} holds {name[:80]} at {option}, which this model's layers and weight "
                                 f"errors do not cover; use the study of this model.")
            picks[t, index[name]] = column[option]
    return picks


def stored_bits_of(options: Space, picks: Ints) -> Floats:
    """Stored bits per weight of each recipe [T]; picks: [T, C]."""
    size = options.sizes[np.arange(picks.shape[1]), picks]
    bits: Floats = 8 * size.sum(-1) / options.weights
    return bits


def summed_error(options: Space, picks: Ints) -> Floats:
    """Sum over layers of the relative weight error [T]; picks: [T, C]."""
    total: Floats = options.errors[np.arange(picks.shape[1]), picks].sum(-1)
    return total


def _groups(graph: Topology) -> dict[str, tuple[int, int]]:
    """Columns of each feature; the first method and width mean "nothing is quantized"."""
    widths = {"method": 1 + len(METHODS), "bits": 1 + len(WIDTHS), "reduction": 1, "error": 2,
              **dict(zip(POSITIONS, graph.sizes, strict=True))}
    groups, start = {}, 0
    for name, width in widths.items():
        groups[name] = (start, start + width)
        start += width
    return groups


def _row(graph: Topology, groups: dict[str, tuple[int, int]], width: int, node: int) -> Floats:
    """Positional codes set, the rest as of a junction."""
    row = np.zeros(width)
    row[groups["method"][0]] = row[groups["bits"][0]] = 1.0
    for name, code in zip(POSITIONS, graph.codes[node], strict=True):
        row[groups[name][0] + code] = 1.0
    return row


def _fill_option(row: Floats, groups: dict[str, tuple[int, int]], options: Space, choice: int, k: int) -> None:
    """Codes of method and bits, compression factor, and error (times 10, and its logarithm around 10^-4)."""
    option, error = options.options[k], options.errors[choice, k]
    row[groups["method"][0]] = row[groups["bits"][0]] = 0.0
    row[groups["method"][0] + 1 + list(METHODS).index(option.method)] = 1.0
    row[groups["bits"][0] + 1 + WIDTHS.index(option.bits)] = 1.0
    untouched = options.sizes[choice, -1]
    row[groups["reduction"][0]] = untouched / options.sizes[choice, k] / 4
    row[groups["error"][0]] = 10 * error
    row[groups["error"][0] + 1] = (np.log10(error + ERROR_FLOOR) + 4) / 2
