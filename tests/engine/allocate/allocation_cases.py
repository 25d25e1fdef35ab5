"""Allocation problems with a known answer: a structure of unequal layers, tied copies, and random convex damage."""

from __future__ import annotations

import itertools

import numpy as np

from engine.allocate.problem import Problem
from engine.core.graph import Node, NodeKind, Structure
from engine.core.layer import Layer, Role
from engine.core.option import Option
from engine.core.record import Scores
from engine.core.sizes import sensible_options

METHODS = ("uaq", "kmeans_c", "kmeans_a")
BITS = (2, 3, 4, 6)


def structure(layers: int, *, tied: bool = False) -> Structure:
    """Layers of 64 x 48, 96 x 80, ...; with `tied`, the last one copies the first one's choice."""
    names = [f"blocks.{i // 2}.linear{i % 2}" for i in range(layers)]
    shapes = [(64 + 32 * (i % 5), 48 + 32 * (i % 7)) for i in range(layers)]
    if tied:
        shapes[-1] = shapes[0]
    made = tuple(
        Layer(n, n, "linear", s, 0, s[1], Role.OTHER, n.rpartition(".")[0], (n,),
              names[0] if tied and i == layers - 1 else "")
        for i, (n, s) in enumerate(zip(names, shapes, strict=True))
    )
    nodes = tuple(Node(n, NodeKind.WEIGHT, n, n.rpartition(".")[0]) for n in names)
    return Structure("hand-made", "Nothing", "0" * 64, 16, made, nodes, tuple((i, i + 1) for i in range(layers - 1)),
                     (), (), 100, (), "line")


def scores(made: Structure, seed: int, *, noise: float = 0.3) -> Scores:
    """Random sensitivities times about 4^-bits, for every sensible option of the three methods."""
    rng = np.random.default_rng(seed)
    table: dict[str, dict[str, float]] = {}
    for layer in made.choices:
        strength = float(np.exp(rng.normal(0, 1)))
        table[layer.name] = {
            str(o): strength * 4.0**-o.bits * float(np.exp(noise * rng.normal()))
            for o in sensible_options(layer, 16) if o.method in METHODS and o.bits in BITS
        }
    return Scores("hand-made", "0" * 64, "made up", table)


def brute_force(problem: Problem) -> float:
    """The least damage within the budget, by trying everything."""
    best = np.inf
    for picks in itertools.product(*(range(len(u.bytes)) for u in problem.units)):
        size = sum(u.bytes[i] for u, i in zip(problem.units, picks, strict=True))
        if size <= problem.budget_bytes:
            best = min(best, sum(u.costs[i] for u, i in zip(problem.units, picks, strict=True)))
    return float(best)


U3, U4, U6 = Option("uaq", 3), Option("uaq", 4), Option("uaq", 6)
