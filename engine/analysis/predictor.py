"""The fitted predictor: one member per fold and kind, predictions with their uncertainty, and what supports them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from engine.analysis.damage import DamageModel
from engine.analysis.features import picks_of, stored_bits_of
from engine.analysis.formula import BitsTerm
from engine.analysis.network import Network
from engine.analysis.reach import Bools, Reach
from engine.analysis.report import Report
from engine.analysis.training import Training, frame_of, index_of, predict_network
from engine.analysis.trials import Floats, Ints, Member, Subject
from engine.core.errors import InputError
from engine.core.option import Option

NEARLY = 0.02  # rank correlation within bins
LEAST_SUPPORT = 5  # trials that must hold an option of a layer before it counts as seen


class Kind(StrEnum):
    """What a member is.

    RIDGE: one-hot options. DAMAGE: damage that adds up. ANCHORED: the same, expected at what each layer did when it was
    measured alone, and corrected by the trials. GNN: the network on the graph (Qua2SeDiMo). GUIDED: the same
    network, told the additive damage of every option as one more node feature, and added to the model of these.
    BLEND: damage and the better network.
    """

    RIDGE = "ridge"
    DAMAGE = "damage"
    ANCHORED = "anchored"
    GNN = "gnn"
    GUIDED = "guided"
    BLEND = "blend"


@dataclass(frozen=True, slots=True)
class GnnMember:
    """A trained network with the scale of its target.

    Attributes:
        network: in evaluation mode, on the CPU.
        subject: the model it reads, with the features it was trained on.
        damage: [C, K] the damages among those features; None where it has none.
        centre, spread: of the quality it was standardised with.
        moments: [hops, 2] mean and deviation, over the training recipes, of the node norms pooled at each hop.
        trust: [hops] weight of each hop's scores: rank correlation, on the validation part, of the norm that was
            ranked (the hop's own, or that of all parts), at least 0.
        term: the target's term in bits, which is known exactly; None where bits and metrics are entangled, so that the
            network predicts the whole target.
    """

    network: Network
    subject: Subject
    damage: Floats | None
    centre: float
    spread: float
    moments: Floats
    trust: Floats
    term: BitsTerm | None

    def quality(self, picks: Ints) -> Floats:
        """[T] targets of recipes [T, C] without the term in bits."""
        index = index_of(self.subject, picks)
        return self.centre + self.spread * predict_network(self.network, frame_of(self.subject), index)

    def predict(self, picks: Ints) -> Floats:
        """[T] targets of recipes [T, C]."""
        found = self.quality(picks)
        return found if self.term is None else found + self.term.at(stored_bits_of(self.subject.space, picks))


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted targets of recipes.

    Attributes:
        mean: [T] over the members.
        spread: [T] one standard deviation: disagreement of the members and error on held-out trials (better than all
            random ones of that size: on those near the best) together.
        unsupported: [T] share of layers at an option that hardly occurred in the trials.
        beyond: [T] whether no trial of that size came near the prediction: it is extrapolated, whatever the spread.
    """

    mean: Floats
    spread: Floats
    unsupported: Floats
    beyond: Bools


@dataclass(frozen=True, slots=True)
class Predictor:
    """What a study taught about a model.

    Attributes:
        subject: the model.
        members: kind -> one member per fold.
        share: weight of the damage members in a blend.
        partner: the networks that have the rest of it.
        kind: the kind used unless another is asked for: the best on held-out trials.
        additive: the quality by one number per layer and option, for allocators and for sliders being dragged.
        noise: kind -> root mean squared error on held-out trials.
        formula: the target.
        term: its term in bits; None where bits and metrics are entangled.
        support: [C, K] how many trials held each option.
        report: held-out figures.
        training: settings of the networks.
        reach: how good the trials were, by size.
        about: study, trials, images and the like.
    """

    subject: Subject
    members: Mapping[str, tuple[Member, ...]]
    share: float
    partner: Kind
    kind: Kind
    additive: DamageModel
    noise: Mapping[str, float]
    formula: str
    term: BitsTerm | None
    support: Ints
    report: Report
    training: Training
    reach: Reach
    about: Mapping[str, str] = field(default_factory=dict)

    def picks(self, recipes: Sequence[Mapping[str, Option]]) -> Ints:
        """Recipes as option columns [T, C]."""
        return picks_of(self.subject.space, self.subject.graph, recipes)

    def predict(self, picks: Ints, kind: Kind | None = None) -> Prediction:
        """Targets of recipes [T, C], with uncertainty."""
        kind = kind or self.kind
        each, base = self._each(picks, kind), self.noise[kind]
        bits = stored_bits_of(self.subject.space, picks)
        quality = each.mean(0) - (0.0 if self.term is None else self.term.at(bits))
        spread = np.sqrt(each.var(0) + self.reach.noise(kind, base, bits, quality) ** 2)
        seen = self.support[np.arange(picks.shape[1]), picks]
        return Prediction(each.mean(0), spread, (seen < LEAST_SUPPORT).mean(-1),
                          self.reach.beyond(base, bits, quality))

    def quality(self, picks: Ints, kind: Kind | None = None) -> Floats:
        """[T] predicted targets without the formula's term in bits, which is known exactly."""
        mean = self.predict(picks, kind).mean
        return mean if self.term is None else mean - self.term.at(stored_bits_of(self.subject.space, picks))

    def quick(self, picks: Ints) -> Floats:
        """[T] targets of recipes [T, C] by the additive model, in microseconds."""
        found = self.additive.predict(picks)
        return found if self.term is None else found + self.term.at(stored_bits_of(self.subject.space, picks))

    @property
    def learned(self) -> Kind:
        """The best kind that knows nothing but the trials: what is explained, and may be compared with layers measured
        alone. Damage models are asked for free, so another kind has to be better by more than `NEARLY`."""
        figures = self.report.target
        known = [k for k in Kind if k is not Kind.ANCHORED and k in figures and k in self.noise]
        best = max(known, key=lambda k: (figures[k].spearman_in_bins or 0.0, -figures[k].mae))
        if Kind.DAMAGE not in known:
            return best
        gain = (figures[best].spearman_in_bins or 0.0) - (figures[Kind.DAMAGE].spearman_in_bins or 0.0)
        return best if gain > NEARLY else Kind.DAMAGE

    @property
    def embedding(self) -> Kind:
        """The kind of network whose embedding norms rank held-out trials best, by single layers and by parts together.

        A guided network begins as the additive model and may be stopped before its embedding has learned anything,
        however well it predicts.

        Raises:
            InputError: there are no networks.
        """
        kinds = [k for k in (Kind.GNN, Kind.GUIDED) if self.members.get(k)]
        if not kinds:
            raise InputError(
                "This predictor holds no such networks, so it has no embeddings; fit it with gnn or guided.")
        norms = self.report.hops
        return max(kinds, key=lambda k: norms[k][0] + norms[k][-1] if k in norms else 0.0)

    def networks(self, kind: Kind | None = None) -> list[GnnMember]:
        """The networks of a kind; by default those of `embedding`.

        Raises:
            InputError: there are none.
        """
        found = [m for m in self.members.get(kind or self.embedding, ()) if isinstance(m, GnnMember)]
        if not found:
            raise InputError(f"This predictor holds no such networks ({kind}); fit it with gnn or guided.")
        return found

    def _each(self, picks: Ints, kind: Kind) -> Floats:
        """[folds, T]"""
        if kind is Kind.BLEND:
            return self.share * self._each(picks, Kind.DAMAGE) + (1 - self.share) * self._each(picks, self.partner)
        return np.stack([member.predict(picks) for member in self.members[kind]])
