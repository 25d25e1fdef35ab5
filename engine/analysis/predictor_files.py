"""Predictors on disk: arrays in safetensors, the rest in JSON; the features are rebuilt and must be the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.analysis.damage import DamageMember, DamageModel
from engine.analysis.features import feature_table, space, with_damage
from engine.analysis.formula import BitsTerm
from engine.analysis.network import Network
from engine.analysis.predictor import GnnMember, Kind, Predictor
from engine.analysis.reach import Reach
from engine.analysis.report import Report
from engine.analysis.ridge import Ridge
from engine.analysis.topology import topology
from engine.analysis.training import Training, shape_of
from engine.analysis.trials import FOLDS, Member, Subject
from engine.core.errors import OptionError, StudyError
from engine.core.files import read_json, write_atomic, write_json
from engine.core.graph import Structure
from engine.core.jsonrecord import from_json, to_json
from engine.core.option import parse_option
from engine.core.record import Scores

VERSION = 3
Array = npt.NDArray[Any]
DAMAGE_FIELDS = ("damage", "curve", "noise")


def save_predictor(stem: str | os.PathLike[str], predictor: Predictor) -> None:
    """Write `STEM.safetensors`, then `STEM.json`, each whole or not at all; the JSON names the other's hash."""
    from safetensors.numpy import save

    subject = predictor.subject
    arrays: dict[str, Array] = {"errors": subject.space.errors, "support": predictor.support,
                                "reach.drawn": predictor.reach.drawn, "reach.every": predictor.reach.every}
    arrays.update({f"additive.{k}": v for k, v in _damage_arrays(predictor.additive).items()})
    for kind, members in predictor.members.items():
        for fold, member in enumerate(members):
            arrays.update({f"{kind}.{fold}.{k}": v for k, v in _arrays(member).items()})
    payload = save({k: np.ascontiguousarray(v) for k, v in arrays.items()})
    content = {
        "version": VERSION, "model": subject.structure.model, "identity": subject.structure.identity,
        "choices": list(subject.graph.choices), "options": [str(o) for o in subject.space.options],
        "features": _features_hash(subject), "tensors": hashlib.sha256(payload).hexdigest(),
        "kinds": list(predictor.members), "kind": str(predictor.kind), "share": predictor.share,
        "partner": str(predictor.partner),
        "noise": dict(predictor.noise), "near_noise": dict(predictor.reach.near_noise),
        "formula": predictor.formula, "term": to_json(predictor.term),
        "report": to_json(predictor.report), "training": to_json(predictor.training), "about": dict(predictor.about),
    }
    write_atomic(_tensors(stem), payload)
    write_json(_json(stem), content)


def load_predictor(stem: str | os.PathLike[str], structure: Structure) -> Predictor:
    """Read a predictor for a model.

    Raises:
        StudyError: files are missing, damaged, of another version or of another model; one sentence.
    """
    name = Path(stem).name
    content = read_json(_json(stem), StudyError)
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise StudyError(f"{name}.json is no predictor of version {VERSION}; fit it again.")
    try:
        _check_model(content, structure, name)
        arrays = _read_arrays(stem, content["tensors"])
        options = tuple(parse_option(text) for text in content["options"])
        errors = {choice: {str(o): float(e) for o, e in zip(options, row, strict=True) if np.isfinite(e)}
                  for choice, row in zip(content["choices"], arrays["errors"], strict=True)}
        graph = topology(structure)
        known = space(structure, Scores("weight-error", structure.identity, "", errors), options[:-1])
        subject = Subject(structure, graph, known, feature_table(graph, known))
        if _features_hash(subject) != content["features"]:
            raise StudyError(f"{name} was fitted to other features than this version makes; fit it again.")
        training = from_json(Training, content["training"])
        term = None if content["term"] is None else from_json(BitsTerm, content["term"])
        members = {kind: tuple(_member(kind, _under(arrays, f"{kind}.{fold}."), subject, training, term)
                               for fold in range(FOLDS)) for kind in content["kinds"]}
        return Predictor(subject, members, float(content["share"]), Kind(content["partner"]),
                         Kind(content["kind"]), _damage_model(_under(arrays, "additive.")), content["noise"],
                         content["formula"], term, arrays["support"], from_json(Report, content["report"]), training,
                         Reach(arrays["reach.drawn"], arrays["reach.every"], content["near_noise"]), content["about"])
    except (KeyError, ValueError, TypeError, RuntimeError, OptionError) as failure:
        raise StudyError(f"{name} is damaged ({str(failure).splitlines()[0][:120]}); fit it again.") from None


def _check_model(content: Mapping[str, Any], structure: Structure, name: str) -> None:
    other = content["identity"]
    if (other and structure.identity and other != structure.identity) or \
            tuple(content["choices"]) != tuple(layer.name for layer in structure.choices):
        raise StudyError(f"{name} was fitted to another model ({content['model']}, {other[:12] or 'no identity'}); "
                         f"this is {structure.model}, {structure.identity[:12] or 'no identity'}.")


def _read_arrays(stem: str | os.PathLike[str], expected: str) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = _tensors(stem)
    try:
        payload = path.read_bytes()
        if hashlib.sha256(payload).hexdigest() != expected:
            raise StudyError(f"{path.name} does not belong to its JSON file or is truncated; fit again.")
        return load(payload)
    except OSError as failure:
        raise StudyError(f"Cannot read {path}: {failure.strerror or failure}.") from None
    except SafetensorError as failure:
        raise StudyError(f"{path.name} is damaged ({str(failure)[:80]}); fit again.") from None


def _arrays(member: Member) -> dict[str, Array]:
    """The numbers of one member."""
    if isinstance(member, Ridge):
        return {"weights": member.weights, "scalars": np.array([member.offset, member.strength])}
    if isinstance(member, DamageMember):
        return _damage_arrays(member.model)
    assert isinstance(member, GnnMember)
    state = {f"state.{k}": v.detach().cpu().numpy() for k, v in member.network.state_dict().items()}
    told = {} if member.damage is None else {"told": member.damage}
    return {**state, **told, "scale": np.array([member.centre, member.spread]), "moments": member.moments,
            "trust": member.trust}


def _member(kind: str, found: dict[str, Array], subject: Subject, training: Training, term: BitsTerm | None) -> Member:
    if kind == Kind.RIDGE:
        return Ridge(found["weights"], float(found["scalars"][0]), float(found["scalars"][1]))
    if kind in (Kind.DAMAGE, Kind.ANCHORED):
        return DamageMember(_damage_model(found), subject.space, term)
    told = found.get("told")
    if told is not None:
        subject = replace(subject, table=with_damage(subject.table, subject.graph, told))
    network = Network(shape_of(subject, training.hidden))
    network.load_state_dict({k: torch.from_numpy(v) for k, v in _under(found, "state.").items()})
    centre, spread = (float(x) for x in found["scale"])
    return GnnMember(network.eval(), subject, told, centre, spread, found["moments"], found["trust"], term)


def _damage_arrays(model: DamageModel) -> dict[str, Array]:
    return {name: np.asarray(getattr(model, name)) for name in DAMAGE_FIELDS}


def _damage_model(found: Mapping[str, Array]) -> DamageModel:
    return DamageModel(found["damage"], found["curve"], float(found["noise"].item()))


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {k[len(prefix):]: v for k, v in arrays.items() if k.startswith(prefix)}


def _features_hash(subject: Subject) -> str:
    """Hash of the features and the topology, rounded below what rebuilding can change."""
    digest = hashlib.sha256()
    for array in (np.round(subject.table.rows, 9) + 0.0, subject.table.row_of, subject.graph.edges):
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    digest.update(repr(subject.graph.roots).encode())
    return digest.hexdigest()


def _json(stem: str | os.PathLike[str]) -> Path:
    return Path(f"{os.fspath(stem)}.json")


def _tensors(stem: str | os.PathLike[str]) -> Path:
    return Path(f"{os.fspath(stem)}.safetensors")
