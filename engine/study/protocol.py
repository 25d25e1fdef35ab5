"""What a study is: the fixed images every trial makes, the machine that made them, and the key that follows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from engine import __version__
from engine.core.jsonrecord import to_json
from engine.core.option import Option

# Raised whenever the same recipe would give other numbers: quantizers, metrics, image seeds.
MEASURE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Protocol:
    """What all trials of a study file share. Image i is made from prompt i (or label i) and seed i.

    Attributes:
        model: the name the model was opened under; the only field that may differ between files of one study.
        identity: hash over the denoiser's tensors.
        components: hash over the tensors of the rest of the pipeline.
        precision_bits: P of the checkpoint.
        choices: names of the layers that have an option of their own, in execution order.
        prompts, labels, seeds: one per image; prompts or labels are empty where the model takes none.
        negative: text to steer away from.
        split: hash of the prompt split the images come from.
        steps, guidance, scheduler, height, width: of the sampler; `scheduler` is its class name.
        extractor: name of the feature space, "" without.
        engine, measure: versions of this program and of what it measures.
    """

    model: str
    identity: str
    components: str
    precision_bits: int
    choices: tuple[str, ...]
    prompts: tuple[str, ...]
    labels: tuple[int, ...]
    seeds: tuple[int, ...]
    negative: str
    split: str
    steps: int
    guidance: float
    scheduler: str
    height: int
    width: int
    extractor: str
    engine: str = __version__
    measure: int = MEASURE_VERSION

    @property
    def images(self) -> int:
        """M, images per trial."""
        return len(self.seeds)

    @property
    def hash(self) -> str:
        """Hex digits that depend on everything but the model's name."""
        return _digest({k: v for k, v in to_json(self).items() if k != "model"})


@dataclass(frozen=True, slots=True)
class Environment:
    """Where trials were measured; numbers are bit-equal only in equal environments.

    Attributes:
        device: "cpu" or "cuda".
        machine: processor or GPU model.
        threads: torch threads.
        dtype: of weights and arithmetic.
        batch: images generated together.
        versions: of the packages the numbers depend on.
    """

    device: str
    machine: str
    threads: int
    dtype: str
    batch: int
    versions: dict[str, str]

    @property
    def hash(self) -> str:
        """Hex digits that depend on every field."""
        return _digest(to_json(self))

    def __str__(self) -> str:
        versions = ", ".join(f"{k} {v}" for k, v in self.versions.items())
        return (f"{self.machine} ({self.device}), {self.threads} threads, {self.dtype}, batches of {self.batch}, "
                f"{versions}")


def trial_key(protocol: Protocol, environment: Environment, options: Mapping[str, Option]) -> str:
    """Hash of everything that determines a trial's numbers."""
    recipe = {name: str(option) for name, option in options.items() if not option.is_untouched}
    return _digest([protocol.hash, environment.hash, recipe])


def protocol_difference(ours: Protocol, theirs: Protocol) -> str:
    """The first field that differs, as words: "steps: 20 here, 50 there"; "" if none does (the name is ignored)."""
    a, b = {"images": ours.images, **to_json(ours)}, {"images": theirs.images, **to_json(theirs)}
    for name in a:
        if name == "model" or a[name] == b[name]:
            continue
        if isinstance(a[name], list):
            return f"{name}: others"
        return f"{name}: {str(a[name])[:24]!r} here, {str(b[name])[:24]!r} there"
    return ""


def environment_difference(ours: Environment, theirs: Environment) -> str:
    """The fields that differ, as words."""
    a, b = _flat(ours), _flat(theirs)
    return ", ".join(f"{k} {a.get(k, '-')} and {b.get(k, '-')}" for k in {**a, **b} if a.get(k) != b.get(k))


def _flat(environment: Environment) -> dict[str, str]:
    fields = to_json(environment)
    return {k: str(v) for k, v in {**fields, **fields.pop("versions")}.items() if k != "versions"}


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
