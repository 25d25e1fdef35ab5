"""Joint costs of blocks, kept beside a model: scoring them takes minutes, reading them a moment."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from engine.allocate.problem import JointCosts, Limits, Problem, Unit, joint_problem
from engine.core.errors import OptionError, StudyError
from engine.core.files import parse_json, write_atomic
from engine.core.graph import Structure
from engine.core.option import Option, parse_option
from engine.core.places import assets_dir, cache_dir, model_stem
from engine.core.record import Scores
from engine.core.seeds import derive

JOINT = "joint-blocks"  # provider of these costs
UNIT = "standardised embedding norm below the best assignment"
PAPER = tuple(Option(m, b) for m in ("uaq", "kmeans_c", "kmeans_a") for b in (3, 4))  # Qua2SeDiMo's six
VERSION = 1
SAME = 1e-3  # between scores of the same networks on two machines


def block_files(structure: Structure, options: Collection[Option] = PAPER) -> tuple[Path, Path]:
    """Where the costs of a model over these options belong in the user's cache, and among what is shipped."""
    made = f"{derive(JOINT, VERSION, *sorted(map(str, options))):016x}"[:8]
    name = f"{model_stem(structure.model, structure.identity)}.{JOINT}-{made}.safetensors"
    return cache_dir() / "scores" / name, assets_dir() / "scores" / name


def find_blocks(structure: Structure, operation: Scores,
                options: Collection[Option] = PAPER) -> tuple[JointCosts, ...] | None:
    """The costs that the networks behind these scores of single layers gave; None where there are none. Files that are
    damaged or of other networks are passed over."""
    for path in block_files(structure, options):
        if path.is_file():
            try:
                return load_blocks(path, operation)
            except StudyError:
                continue
    return None


def save_blocks(path: Path, joints: Sequence[JointCosts], operation: Scores) -> None:
    """Write costs, whole or not at all: per block candidates as uint8 [n, layers] and costs as float64 [n]; and the
    scores of single layers by the same networks, by which these are known again."""
    options = list(dict.fromkeys(o for j in joints for c in j.candidates for o in c))
    place = {option: k for k, option in enumerate(options)}
    tensors = {"operation": _numbers(operation)}
    for i, joint in enumerate(joints):
        tensors[f"{i}.candidates"] = np.array([[place[o] for o in c] for c in joint.candidates], np.uint8)
        tensors[f"{i}.costs"] = np.array(joint.costs, np.float64)
    head = {"version": VERSION, "model": operation.model, "options": list(map(str, options)),
            "blocks": [list(j.layers) for j in joints]}
    write_atomic(path, save(tensors, {"head": json.dumps(head)}))


def load_blocks(path: Path, operation: Scores) -> tuple[JointCosts, ...]:
    """Read costs.

    Raises:
        StudyError: damaged, something else, or of other networks than the scores of single layers.
    """
    try:
        with safe_open(path, "numpy") as file:
            head = parse_json(file.metadata()["head"], path.name, StudyError)
            kept, known = file.get_tensor("operation"), _numbers(operation)
            if head["version"] != VERSION or head["model"] != operation.model or kept.shape != known.shape \
                    or not np.allclose(kept, known, rtol=SAME, atol=SAME):
                raise ValueError("it is of other networks")
            options = [parse_option(text) for text in head["options"]]
            return tuple(
                JointCosts(tuple(layers), tuple(tuple(options[k] for k in row)
                                                for row in file.get_tensor(f"{i}.candidates").tolist()),
                           tuple(file.get_tensor(f"{i}.costs").tolist()))
                for i, layers in enumerate(head["blocks"]))
    except (SafetensorError, OSError, KeyError, IndexError, TypeError, ValueError, OptionError, StudyError) as failure:
        raise StudyError(f"{path.name} cannot be used ({str(failure)[:100].rstrip('.')}); allocate --method "
                         f"faithful-blocks makes it again.") from None


def _numbers(scores: Scores) -> npt.NDArray[np.float64]:
    """Every damage, by layer and option."""
    return np.array([d for _, row in sorted(scores.layers.items()) for _, d in sorted(row.items())], np.float64)


def block_problem(structure: Structure, joints: Sequence[JointCosts], budget_bytes: int,
                  limits: Limits | None = None) -> Problem:
    """`joint_problem` without candidates that another of the block beats in damage and bytes, which nothing would
    choose; a block that is pinned as a whole needs no scored candidate.

    Raises:
        InputError: as `joint_problem`.
    """
    pinned = (limits or Limits()).pinned
    free = [JointCosts(j.layers, (tuple(pinned[n] for n in j.layers),), (0.0,))
            if all(n in pinned for n in j.layers) else j for j in joints]
    problem = joint_problem(structure, free, budget_bytes, limits, JOINT)
    return replace(problem, units=tuple(map(_undominated, problem.units)))


def _undominated(unit: Unit) -> Unit:
    """Candidates by ascending bytes, each of less damage than all smaller ones."""
    order = np.lexsort((unit.costs, unit.bytes))
    costs = np.array(unit.costs)[order]
    least = np.concatenate([[np.inf], np.minimum.accumulate(costs)[:-1]])
    kept = order[costs < least].tolist()
    return Unit(unit.layers, tuple(unit.candidates[i] for i in kept), tuple(unit.costs[i] for i in kept),
                tuple(unit.bytes[i] for i in kept))
