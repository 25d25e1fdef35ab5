"""Joint scores of blocks by a predictor's networks, as costs for the allocators (Qua2SeDiMo section 4)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from engine.allocate.blocks import PAPER
from engine.allocate.problem import JointCosts
from engine.analysis.predictor import Predictor
from engine.analysis.scoring import CONTEXTS, BlockScores, block_scores
from engine.analysis.trials import Ints
from engine.core.option import Option
from engine.providers.progress import Progress


def joint_costs(blocks: Sequence[BlockScores]) -> tuple[JointCosts, ...]:
    """What every assignment loses to the best of its block."""
    return tuple(JointCosts(b.layers, b.candidates, tuple(max(b.scores) - s for s in b.scores)) for b in blocks)


def scored_blocks(predictor: Predictor,
                  options: Sequence[Option] = PAPER) -> Iterator[Progress | tuple[JointCosts, ...]]:
    """Progress per block, then the costs of all of them; takes minutes.

    Raises:
        InputError: the predictor holds no networks.
    """
    total, found, begin = len(predictor.subject.graph.parts), list[BlockScores](), time.monotonic()
    for block in block_scores(predictor, contexts(predictor), options=options):
        found.append(block)
        each = (time.monotonic() - begin) / len(found)
        yield Progress(f"joint scores of {block.id}", len(found), total, each * (total - len(found)))
    yield joint_costs(found)


def contexts(predictor: Predictor, count: int = CONTEXTS, seed: int = 0) -> Ints:
    """What layers around a block may hold, [count, C] option columns: drawn layer by layer as often as trials held
    them, so that no study is needed beside the predictor."""
    rng = np.random.default_rng(seed)
    columns = [rng.choice(len(held), count, p=held / held.sum()) for held in predictor.support.astype(float)]
    return np.stack(columns, 1)
