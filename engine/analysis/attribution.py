"""Which layers a predictor holds responsible: Captum on node features (through PyG's Explainer) and on whole layers.

Gradient methods explain one recipe's node features against a reference recipe's, and give a mask per node and feature.
Shapley sampling and ablation switch whole layers between the two recipes, one feature group per layer, so they work
for every kind of member; PyG's Explainer cannot do that (it hands Shapley values back with a dimension too many).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.analysis.additive import trust_of
from engine.analysis.features import node_rows
from engine.analysis.predictor import LEAST_SUPPORT, GnnMember, Kind, Predictor
from engine.analysis.trials import Floats, Ints
from engine.core.option import Option
from engine.core.record import FEATURES, Scores

STEPS = 16  # of integrated gradients
# Of Shapley sampling. A layer's share depends on how many came before it, the more so the steeper the curve, so few
# permutations leave noise; predictions by tables cost nothing, those of networks take long.
PERMUTATIONS = 20
TABLE_PERMUTATIONS = 400
TABLES = (Kind.RIDGE, Kind.DAMAGE, Kind.ANCHORED)
UNIT = "predicted quality lost"
DIGITS = 4  # of what is kept per feature


class Method(StrEnum):
    """Attribution methods; the first three need networks."""

    INTEGRATED_GRADIENTS = "integrated-gradients"
    SALIENCY = "saliency"
    INPUT_X_GRADIENT = "input-x-gradient"
    SHAPLEY = "shapley"
    ABLATION = "ablation"


GRADIENTS = {Method.INTEGRATED_GRADIENTS: "IntegratedGradients", Method.SALIENCY: "Saliency",
             Method.INPUT_X_GRADIENT: "InputXGradient"}


@dataclass(frozen=True, slots=True)
class Attribution:
    """Responsibility for a recipe's predicted loss of quality, positive = harmful.

    Attributes:
        method: how it was computed.
        layers: choice name -> quality lost.
        nodes: node id -> quality lost, junctions included; empty for methods that switch layers.
        features: feature group (method, bits, reduction, error, stage, ...) -> quality lost; likewise.
        by_layer: choice name -> feature group -> quality lost; likewise.
        expected: predicted quality of the reference less that of the recipe, what the parts should add up to.
    """

    method: Method
    layers: dict[str, float]
    nodes: dict[str, float]
    features: dict[str, float]
    by_layer: dict[str, dict[str, float]]
    expected: float


def attribute(predictor: Predictor, recipe: Ints, reference: Ints, method: Method, *, kind: Kind | None = None,
              permutations: int | None = None, seed: int = 0) -> Attribution:
    """Explain one recipe against a reference; both [C] option columns.

    By default the best members are asked that know nothing but the trials.

    Raises:
        InputError: the method needs networks and the predictor holds none.
    """
    if method in GRADIENTS:
        return _from_gradients(predictor, recipe, reference, method, kind)
    kind = kind or predictor.learned
    count = permutations or (TABLE_PERMUTATIONS if kind in TABLES else PERMUTATIONS)
    return _from_switches(predictor, recipe, reference, method, kind, count, seed)


def reference_of(predictor: Predictor) -> Ints:
    """[C] per layer the best supported option of least weight error: what damage is measured against."""
    space = predictor.subject.space
    seen = space.offered & (predictor.support >= LEAST_SUPPORT)
    seen[~seen.any(1)] = space.offered[~seen.any(1)]
    best: Ints = np.where(seen, space.errors, np.inf).argmin(1)
    return best


def recipe_at(predictor: Predictor, option: Option) -> Ints:
    """[C] every layer at one option; the reference's where a layer does not offer it."""
    column = predictor.subject.space.index(option)
    return np.where(predictor.subject.space.offered[:, column], column, reference_of(predictor))


def attribution_scores(predictor: Predictor, method: Method, options: Sequence[Option] | None = None, *,
                       kind: Kind | None = None, permutations: int | None = None) -> Scores:
    """Damage per layer and option: each uniform recipe is explained against the reference.

    What gradients say of each layer's features goes with it: `Scores.features` reads it.

    Args:
        predictor: with support for the options.
        method: see `Method`.
        options: default: those that enough trials held in at least one layer.
        kind: members to ask.
        permutations: of Shapley sampling; None = `TABLE_PERMUTATIONS` or `PERMUTATIONS`.
    """
    space, reference = predictor.subject.space, reference_of(predictor)
    asked = kind or (_networks_kind(predictor) if method in GRADIENTS else predictor.learned)
    wanted = [o for o in space.options if not o.is_untouched] if options is None else list(options)
    layers: dict[str, dict[str, float]] = {name: {} for name in predictor.subject.graph.choices}
    blocks: dict[str, dict[str, float]] = {}
    features: dict[str, dict[str, dict[str, float]]] = {}
    for option in wanted:
        column = space.index(option)
        here = space.offered[:, column] & ((predictor.support[:, column] >= LEAST_SUPPORT) | (options is not None))
        if not here.any():
            continue
        recipe = np.where(here, column, reference)
        found = attribute(predictor, recipe, reference, method, kind=kind, permutations=permutations)
        for c in np.flatnonzero(here):
            name = predictor.subject.graph.choices[c]
            layers[name][str(option)] = found.layers[name]
            if found.by_layer:
                features.setdefault(str(option), {})[name] = {g: float(f"{v:.{DIGITS}g}") for g, v in
                                                              found.by_layer[name].items() if v}
        for block in predictor.subject.structure.blocks:
            total = sum(found.layers[n] for n in block.layers if n in found.layers)
            blocks.setdefault(block.id, {})[str(option)] = total
    about = {**predictor.about, "method": str(method), "kind": str(asked)}
    if features:
        about[FEATURES] = json.dumps(features, separators=(",", ":"))
    return Scores(f"attribution-{method}", predictor.subject.structure.identity, UNIT, layers, blocks,
                  trust_of(predictor, asked), about=about)


def _networks_kind(predictor: Predictor) -> Kind:
    """The networks that are asked unless others are named: the guided ones predict better."""
    return Kind.GUIDED if Kind.GUIDED in predictor.members else Kind.GNN


def _from_gradients(predictor: Predictor, recipe: Ints, reference: Ints, method: Method,
                    kind: Kind | None) -> Attribution:
    """Mean over the folds of PyG's explanation of each network, in units of the target."""
    members = predictor.networks(kind if kind in (Kind.GNN, Kind.GUIDED) else _networks_kind(predictor))
    graph, groups = predictor.subject.graph, members[0].subject.table.groups
    index = node_rows(predictor.subject.table, graph, np.stack([recipe, reference]))
    masks = np.mean([m.spread * _explain(m, index, method) for m in members], 0)
    # Harm is quality lost; a gradient's size has no direction, so saliency stays as it is.
    harm = masks if method is Method.SALIENCY else -masks
    by_node = harm.sum(1)
    layers = {name: float(by_node[graph.choice_of == c].sum()) for c, name in enumerate(graph.choices)}
    grouped = {name: harm[:, a:b].sum(1) for name, (a, b) in groups.items()}
    features = {name: float(column.sum()) for name, column in grouped.items()}
    by_layer = {name: {group: float(column[graph.choice_of == c].sum()) for group, column in grouped.items()}
                for c, name in enumerate(graph.choices)}
    each = np.array([m.quality(np.stack([recipe, reference])) for m in members]).mean(0)
    nodes = dict(zip(graph.node_ids, map(float, by_node), strict=True))
    return Attribution(method, layers, nodes, features, by_layer, float(each[1] - each[0]))


def _explain(member: GnnMember, index: Ints, method: Method) -> Floats:
    """[N, F] node mask of one network; index: [2, N] feature rows of the recipe and of the reference.

    Saliency is taken times the change of the features, so that columns count that differ from the reference; input x
    gradient likewise on the difference, which the network adds back to the reference.
    """
    from torch_geometric.explain import CaptumExplainer, Explainer

    rows = torch.from_numpy(member.subject.table.rows).float()
    x, base = rows[index[0]], rows[index[1]]
    edges = torch.from_numpy(member.subject.graph.edges)
    extra: dict[str, Any] = {"n_steps": STEPS} if method is Method.INTEGRATED_GRADIENTS else {}
    explainer = Explainer(
        _Shifted(member.network, base), CaptumExplainer(GRADIENTS[method], **extra), explanation_type="model",
        node_mask_type="attributes",
        model_config={"mode": "regression", "task_level": "graph", "return_type": "raw"},
    )
    mask = explainer(x - base, edges).node_mask
    found = mask * (x - base).abs() if method is Method.SALIENCY else mask
    values: Floats = found.detach().double().numpy()
    return values


class _Shifted(torch.nn.Module):
    """The network as a function of the change from the reference, so that "zero" means the reference."""

    def __init__(self, network: torch.nn.Module, base: Tensor) -> None:
        super().__init__()
        self.network, self.base = network, base

    def forward(self, change: Tensor, edge_index: Tensor) -> Tensor:
        found: Tensor = self.network(self.base + change, edge_index)
        return found


def _from_switches(predictor: Predictor, recipe: Ints, reference: Ints, method: Method, kind: Kind,
                   permutations: int, seed: int) -> Attribution:
    """Captum on one switch per layer: 1 = the recipe's option, 0 = the reference's."""
    from captum.attr import FeatureAblation, ShapleyValueSampling

    moving = np.flatnonzero(recipe != reference)
    quality = _switched(predictor, recipe, reference, moving, kind)
    names = predictor.subject.graph.choices
    if not len(moving):
        return Attribution(method, dict.fromkeys(names, 0.0), {}, {}, {}, 0.0)
    on, groups = torch.ones(1, len(moving)), torch.arange(len(moving))[None]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if method is Method.ABLATION:
            found = FeatureAblation(quality).attribute(on, feature_mask=groups, perturbations_per_eval=64)
        else:
            found = ShapleyValueSampling(quality).attribute(on, feature_mask=groups, n_samples=permutations,
                                                            perturbations_per_eval=64)
    layers = dict.fromkeys(names, 0.0)
    layers.update({names[c]: -float(v) for c, v in zip(moving, found[0], strict=True)})
    ends = quality(torch.tensor([[0.0], [1.0]]).expand(2, len(moving)))
    return Attribution(method, layers, {}, {}, {}, float(ends[0] - ends[1]))


def _switched(predictor: Predictor, recipe: Ints, reference: Ints, moving: Ints,
              kind: Kind) -> Callable[[Tensor], Tensor]:
    def quality(switches: Tensor) -> Tensor:
        picks = np.repeat(reference[None], len(switches), 0)
        picks[:, moving] = np.where(switches.numpy() > 0.5, recipe[moving], reference[moving])
        return torch.from_numpy(predictor.quality(picks, kind)).float()

    return quality


