"""MPQ-Diff's proxy as a record and a provider: which layers repeat what others compute, per sampling step.

MPQ-Diff (arXiv 2412.00144) after OMPQ (Ma et al., AAAI 2023). What is not published (features, number of pictures and
steps, the exact weighting) is chosen here and kept open as a switch; see `engine.calibrate.importance`. The proxy says
nothing of how much a layer's quantization errs, so the provider's damage is importance times weight error, and the
published linear objective is offered beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from engine.calibrate.correlation import off_diagonal_median, orthogonality
from engine.calibrate.files import load_part, save_part
from engine.calibrate.importance import Weighting, gammas, importance
from engine.calibrate.profile import Profile, ProfilePlan, profile, row_of
from engine.core.errors import InputError, StoreError
from engine.core.graph import Structure
from engine.core.option import FP16, parse_option
from engine.core.places import assets_dir, cache_dir, model_stem
from engine.core.record import Scores, Trust
from engine.core.sizes import default_option
from engine.live.cancel import Cancel
from engine.live.model import Model
from engine.providers.progress import Progress

PROVIDER, LINEAR = "orthogonality", "orthogonality-linear"
UNIT, LINEAR_UNIT = "importance x relative squared weight error", "importance x bits saved"
KIND, VERSION = "orthogonality", 1
SUFFIX = ".orthogonality.safetensors"
FEW_PICTURES = 16
SATURATED = 0.25  # how far the biased median may lie above the debiased one


@dataclass(frozen=True, eq=False)
class Orthogonality:
    """The orthogonality matrix over profiled steps.

    Attributes:
        model: identity of the model.
        rows: what is compared, in forward order (module paths, or layers where inputs are compared).
        steps, timesteps: profiled, per T.
        matrices: float64 [T, R, R], the estimate in use; 0 in rows of layers that do not vary.
        biased_median, debiased_median: over pairs of layers and steps, of both estimates.
        images: n.
        missing: rows that never ran. silent: rows that vary in no step.
        warnings: one sentence each.
        about: what determines the numbers.
    """

    model: str
    rows: tuple[str, ...]
    steps: tuple[int, ...]
    timesteps: tuple[float, ...]
    matrices: Tensor
    biased_median: float
    debiased_median: float
    images: int
    missing: tuple[str, ...]
    silent: tuple[str, ...]
    warnings: tuple[str, ...]
    about: Mapping[str, str]

    @property
    def matrix(self) -> Tensor:
        """Mean over steps, [R, R]: for the view layer x layer."""
        return self.matrices.mean(0)

    @property
    def gamma(self) -> Tensor:
        """Similarity per step and row, [T, R], NaN where a row does not vary: for the view layer x timestep."""
        return gammas(self.matrices)

    def importance(self, structure: Structure, weighting: Weighting | None = None) -> dict[str, float]:
        """Choice name -> theta (or c); halves of a split layer share that of their common output.

        Raises:
            StoreError: it is of another model.
            InputError: no layer varies.
        """
        check_orthogonality(self, structure)
        values = dict(zip(self.rows, importance(self.matrices, weighting).tolist(), strict=True))
        compared = self.about.get("features", "output")
        return {layer.name: values[row_of(layer, compared)] for layer in structure.choices}


def orthogonality_of(found: Profile, *, debiased: bool = True) -> Orthogonality:
    """The matrices of a profile, with what must be said about them.

    Raises:
        InputError: too few pictures for the estimate, or no layer varies.
    """
    both = {kind: torch.stack([orthogonality(g, debiased=kind) for g in found.grams]) for kind in {True, debiased}}
    biased = both.get(False)
    if biased is None:
        biased = torch.stack([orthogonality(g, debiased=False) for g in found.grams])
    matrices = both[debiased]
    silent = tuple(r for r, a in zip(found.rows, matrices.diagonal(dim1=1, dim2=2).amax(0), strict=True) if a == 0)
    if len(silent) == len(found.rows):
        raise InputError("No layer's output varies over the calibration pictures; use several different prompts or "
                         "seeds.")
    about = {**found.about, "debiased": str(debiased)}
    made = Orthogonality(found.model, found.rows, found.steps, found.timesteps, matrices, _median(biased),
                         _median(both[True]), found.grams.shape[-1], found.missing, silent, (), about)
    return replace(made, warnings=_warnings(made, debiased))


def score(model: Model, plan: ProfilePlan | None = None, *, debiased: bool = True, directory: Path | None = None,
          cancel: Cancel | None = None) -> Iterator[Progress | Orthogonality]:
    """Profile a model; ends with `Orthogonality`. Arguments and errors as `engine.calibrate.profile.profile`."""
    for event in profile(model, plan, directory=directory, cancel=cancel):
        yield orthogonality_of(event, debiased=debiased) if isinstance(event, Profile) else event


def useful_scores(structure: Structure, found: Orthogonality, errors: Scores, weighting: Weighting | None = None,
                  command: str = "") -> Scores:
    """Damage theta_i x e_i(option), e the relative squared weight error: the recommended use of the proxy.

    Args:
        structure: of the model.
        found: its orthogonality.
        errors: weight-error scores of the same model.
        weighting: see `Weighting`.
        command: the command line, for the record.

    Raises:
        StoreError: `found` or `errors` are of another model.
    """
    if errors.model != structure.identity:
        raise StoreError(f"The weight errors are of another model than {structure.model}; compute them again.")
    theta = found.importance(structure, weighting)
    layers = {name: {o: theta[name] * e for o, e in errors.layers.get(name, {}).items()} for name in theta}
    return Scores(PROVIDER, structure.identity, UNIT, layers, trust=_trust(found), command=command,
                  about=_about(found, weighting))


def linear_scores(structure: Structure, found: Orthogonality, weighting: Weighting | None = None,
                  bits: tuple[int, ...] = (2, 3, 4, 6, 8), command: str = "") -> Scores:
    """Damage c_i x (P - bits) of the default method: the published linear objective max sum c_i b_i, counted from
    untouched. Linear damage makes every optimum bang-bang: all layers but one at their least or greatest width.

    Default weighting: with the tail mean, as OMPQ has it. Errors as `Orthogonality.importance`.
    """
    weighting = weighting or Weighting(tail=True)
    c = found.importance(structure, weighting)
    options = [default_option(b) for b in bits]
    layers = {name: {str(o): value * (FP16.bits - o.bits) for o in options} for name, value in c.items()}
    return Scores(LINEAR, structure.identity, LINEAR_UNIT, layers, trust=_trust(found), command=command,
                  about=_about(found, weighting))


def importances(scores: Scores) -> dict[str, float]:
    """Layer -> c of `linear_scores`.

    Raises:
        StoreError: the scores are not of that kind.
    """
    if scores.unit != LINEAR_UNIT:
        raise StoreError(f"Importances are read from scores in the unit {LINEAR_UNIT!r}, not {scores.unit!r}.")
    return {name: value / (FP16.bits - parse_option(o).bits)
            for name, row in scores.layers.items() for o, value in list(row.items())[:1]}


def orthogonality_path(structure: Structure, directory: Path | None = None) -> Path:
    """Where the record of a model belongs in the user's cache."""
    return (directory or cache_dir() / "scores") / (model_stem(structure.model, structure.identity) + SUFFIX)


def save_orthogonality(path: Path, found: Orthogonality) -> None:
    """Write a record, whole or not at all; matrices are kept in float32."""
    plain = {f.name: getattr(found, f.name) for f in fields(found) if f.name not in ("matrices", "about")}
    head = {"kind": KIND, "version": VERSION, "about": dict(found.about), **plain}
    save_part(path, {"matrices": found.matrices.float()}, head)


def load_orthogonality(path: Path) -> Orthogonality:
    """Read a record.

    Raises:
        StoreError: missing, damaged, or something else.
    """
    tensors, rest = load_part(path)
    if not isinstance(rest, dict) or rest.pop("kind", "") != KIND or rest.pop("version", 0) != VERSION:
        raise StoreError(f"{path.name} holds no orthogonality record of version {VERSION}; run sensitivity again.")
    try:
        texts = {key: tuple(map(str, rest[key])) for key in ("rows", "missing", "silent", "warnings")}
        found = Orthogonality(
            str(rest["model"]), texts["rows"], tuple(map(int, rest["steps"])), tuple(map(float, rest["timesteps"])),
            tensors["matrices"].double(), float(rest["biased_median"]), float(rest["debiased_median"]),
            int(rest["images"]), texts["missing"], texts["silent"], texts["warnings"],
            {str(k): str(v) for k, v in rest["about"].items()})
        if found.matrices.shape != (len(found.steps), len(found.rows), len(found.rows)):
            raise ValueError("the matrices do not fit the rows")
    except (TypeError, KeyError, ValueError, AttributeError) as failure:
        raise StoreError(f"{path.name} is damaged ({str(failure)[:100]}); run sensitivity again.") from None
    return found


def find_orthogonality(structure: Structure) -> Orthogonality | None:
    """The record of this model from the user's cache, else the shipped one; None if there is none that fits."""
    for directory in (None, assets_dir() / "scores"):
        path = orthogonality_path(structure, directory)
        if path.is_file():
            try:
                found = load_orthogonality(path)
                check_orthogonality(found, structure)
            except StoreError:
                continue
            return found
    return None


def check_orthogonality(found: Orthogonality, structure: Structure) -> None:
    """Refuse a record of another model.

    Raises:
        StoreError: the identity or the layers differ.
    """
    compared = found.about.get("features", "output")
    rows = {row_of(layer, compared) for layer in structure.choices}
    if found.model != structure.identity or rows != set(found.rows):
        raise StoreError(f"This orthogonality record is of another model (identity {found.model[:12]}); "
                         f"{structure.model} is {structure.identity[:12]}. Run sensitivity for this one.")


def _median(matrices: Tensor) -> float:
    values = [m for m in map(off_diagonal_median, matrices) if not math.isnan(m)]
    return sum(values) / len(values) if values else 0.0


def _warnings(found: Orthogonality, debiased: bool) -> tuple[str, ...]:
    """What a reader must know, one sentence each."""
    said = []
    gap = found.biased_median - found.debiased_median
    if not debiased and gap > SATURATED:
        said.append(f"The biased estimate is saturated: its median is {found.biased_median:.2f}, the debiased one "
                    f"{found.debiased_median:.2f}; use the debiased estimate or more pictures.")
    if found.images < FEW_PICTURES:
        said.append(f"Only {found.images} pictures: the estimate is noisy; 64 are usual.")
    if len(found.steps) == 1:
        said.append("Only one sampling step was profiled: how correlation changes over time is not in it.")
    if found.missing:
        said.append(f"{len(found.missing)} layers never ran (first: {found.missing[0]}); they take the mean "
                    f"importance.")
    quiet = [row for row in found.silent if row not in found.missing]
    if quiet:
        said.append(f"{len(quiet)} layers give the same output for all pictures (first: {quiet[0]}), as time "
                    f"embeddings do; their correlation is undefined and they take the mean importance.")
    return tuple(said)


def _trust(found: Orthogonality) -> Trust:
    note = "From cross-layer correlation of full-precision outputs; no quantized picture was looked at."
    return Trust(images=found.images, note=" ".join([note, *found.warnings]))


def weighting_of(about: Mapping[str, str]) -> Weighting:
    """How scores of this module were weighted, from their `about`; what it does not say is the default.

    Raises:
        StoreError: it says something else.
    """
    usual = Weighting()
    try:
        return Weighting(about.get("aggregate", usual.aggregate), float(about.get("beta", usual.beta)),
                         float(about.get("decay", usual.decay)), about.get("summed") == "True",
                         about.get("tail") == "True")
    except (InputError, ValueError) as failure:
        raise StoreError(f"The orthogonality scores do not say how they were weighted ({str(failure)[:100]}); run "
                         f"sensitivity again.") from None


def _about(found: Orthogonality, weighting: Weighting | None) -> dict[str, str]:
    w = weighting or Weighting()
    return {**found.about, "aggregate": w.aggregate, "beta": f"{w.beta:g}", "summed": str(w.summed),
            "tail": str(w.tail), "decay": f"{w.decay:g}"}
