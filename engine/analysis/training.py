"""Fitting one network to one fold: AdamW, cosine, gradients clipped, stopped early on a validation part."""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch

from engine.analysis.attention import Wiring, wiring
from engine.analysis.features import node_rows
from engine.analysis.losses import RankLoss, total_loss
from engine.analysis.network import Network, Shape
from engine.analysis.ranking import relevance, spearman
from engine.analysis.trials import Floats, Ints, Subject, TrialTable

CLIP = 5.0


class Ranked(StrEnum):
    """Which norms the ranking loss orders.

    HOPS: the pooled embedding of every hop with roots, as the paper does. Hops below the last see few layers, so the
    order asked of them cannot be had, and they pull at the encoder all the same.
    PARTS: hop 0, and the sum over all parts of the norm each is scored by; both see every layer.
    """

    HOPS = "hops"
    PARTS = "parts"


@dataclass(frozen=True, slots=True)
class Training:
    """Settings of a fit; the paper's where they scale (section 3.4), far fewer epochs.

    Attributes:
        rank, weight: ranking loss, and its weight beside the MSE.
        ranked: which norms it orders.
        epochs: at most; the learning rate falls as a cosine over them.
        batch: recipes ranked together.
        rate, decay: of AdamW.
        patience: epochs without a better validation loss before stopping.
        hidden: width of hops 1 to 4.
        seed: of weights and batches.
        device: "cpu" or "cuda".
    """

    rank: RankLoss = RankLoss.HYBRID
    weight: float = 0.3
    ranked: Ranked = Ranked.PARTS
    epochs: int = 60
    batch: int = 64
    rate: float = 3e-3
    decay: float = 1e-4
    patience: int = 20
    hidden: int = 32
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Epoch:
    """Progress of one fit: losses are mean squared errors of the standardised target."""

    fold: int
    number: int
    of: int
    train: float
    validation: float
    best: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """What is shared by all recipes of a model, as tensors.

    Attributes:
        rows: [R, F] features.
        wires: the topology.
    """

    rows: torch.Tensor
    wires: Wiring


def frame_of(subject: Subject, device: str = "cpu") -> Frame:
    """Tensors of a model."""
    rows = torch.from_numpy(subject.table.rows).float().to(device)
    edges = torch.from_numpy(subject.graph.edges)
    return Frame(rows, wiring(edges, len(subject.graph.node_ids)).to(device))


def shape_of(subject: Subject, hidden: int) -> Shape:
    """Network sizes for a model."""
    return Shape(subject.table.groups, subject.graph.roots, tuple((p.root, p.hops) for p in subject.graph.parts),
                 hidden=hidden)


def ranked_norms(subject: Subject, ranked: Ranked) -> tuple[int, ...]:
    """Places in the network's list of norms: hops first, then the parts' mean."""
    return subject.graph.ranked_hops if ranked is Ranked.HOPS else (0, len(subject.graph.roots))


def index_of(subject: Subject, picks: Ints, device: str = "cpu") -> torch.Tensor:
    """Feature row of every node in every recipe, [N, T]."""
    return torch.from_numpy(node_rows(subject.table, subject.graph, picks).T.copy()).to(device)


def train_network(table: TrialTable, target: Floats, fit: Ints, held: Ints, settings: Training, fold: int = 0,
                  curve: Sequence[float] = ()) -> Generator[Epoch, None, Network]:
    """One record per epoch; returns the network of least validation error.

    Args:
        table: all trials; embeddings are ranked by its target.
        target: [T] what to predict, standardised.
        fit, held: indices to learn from, and to stop on.
        settings: see `Training`.
        fold: number, for the record and the seed.
        curve: offset, slope and exponent over the damages among the features, where there are some.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed + fold)
        network = Network(shape_of(table.subject, settings.hidden)).to(settings.device)
    frame, index = frame_of(table.subject, settings.device), index_of(table.subject, table.picks, settings.device)
    y = torch.from_numpy(target).float().to(settings.device)
    if curve:
        network.follow(curve, len(table.subject.graph.choices))
    grades = torch.from_numpy(relevance(table.target, table.target[fit])).float().to(settings.device)
    optimiser = torch.optim.AdamW(network.parameters(), settings.rate, weight_decay=settings.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs)
    ranked = ranked_norms(table.subject, settings.ranked)
    rng = np.random.default_rng([settings.seed, fold])
    best, state, since = np.inf, copy.deepcopy(network.state_dict()), 0
    if curve:  # the additive model alone is a network to beat
        best = _error(network, frame, index[:, held], target[held], settings.batch)
    for number in range(settings.epochs):
        network.train()
        losses = [train_step(network, frame, index[:, b], y[b], grades[b], optimiser, ranked,
                             settings.rank, settings.weight) for b in _batches(fit, settings.batch, rng)]
        schedule.step()
        error = _error(network, frame, index[:, held], target[held], settings.batch)
        since += 1
        if error < best:
            best, state, since = error, copy.deepcopy(network.state_dict()), 0
        yield Epoch(fold, number + 1, settings.epochs, float(np.mean(losses)), error, since == 0)
        if since >= settings.patience:
            break
    network.load_state_dict(state)
    return network.eval().cpu()


def train_step(network: Network, frame: Frame, index: torch.Tensor, target: torch.Tensor, grades: torch.Tensor,
               optimiser: torch.optim.Optimizer, hops: tuple[int, ...], rank: RankLoss,
               weight: float = 1.0) -> float:
    """One step on [N, B] recipes; every gradient, ranking included, comes from one backward pass."""
    predicted, norms = network.predict(frame.rows, index, frame.wires)
    loss = total_loss(predicted, target, [norms[h] for h in hops], grades, rank, weight)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    optimiser.step()
    return float(((predicted.detach() - target) ** 2).mean())


@torch.no_grad()
def predict_network(network: Network, frame: Frame, index: torch.Tensor, batch: int = 64) -> Floats:
    """[T] standardised targets of recipes [N, T]."""
    network.eval()
    found = [network.predict(frame.rows, part, frame.wires)[0] for part in torch.split(index, batch, 1)]
    return torch.cat(found).double().cpu().numpy()


def _error(network: Network, frame: Frame, index: torch.Tensor, target: Floats, batch: int) -> float:
    return float(((predict_network(network, frame, index, batch) - target) ** 2).mean())


@torch.no_grad()
def hop_norms(network: Network, frame: Frame, index: torch.Tensor, batch: int = 64) -> Floats:
    """[hops + 1, T] L1 norms of the pooled hop embeddings, and the parts' mean."""
    network.eval()
    found = [torch.stack(network.predict(frame.rows, part, frame.wires)[1]) for part in torch.split(index, batch, 1)]
    return torch.cat(found, 1).double().cpu().numpy()


def hop_spearman(network: Network, frame: Frame, index: torch.Tensor, target: Floats) -> list[float]:
    """Rank correlation of every hop's norm with the target."""
    return [spearman(norms, target) for norms in hop_norms(network, frame, index)]


def _batches(fit: Ints, size: int, rng: np.random.Generator) -> list[torch.Tensor]:
    """Shuffled, all of nearly equal size (a last batch of two recipes would rank nothing)."""
    order = rng.permutation(fit)
    return [torch.from_numpy(part) for part in np.array_split(order, max(1, round(len(order) / size)))]
