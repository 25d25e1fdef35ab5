"""A bench without a model: numbers follow from the recipe by arithmetic, so that storage and workers can be tested.

`Job.source` is a word of commands: "" measures, "slow" takes its time, "fail-3" fails on trials whose first layer has
3 bits, "nan" measures NaN, "die" ends the process, "absent" cannot be opened, "other" is another model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.core.errors import ModelError
from engine.core.graph import Block, Structure
from engine.core.layer import Layer, Role
from engine.core.option import Option
from engine.core.seeds import derive
from engine.live.cancel import check_cancel
from engine.study.job import Job, Ready
from engine.study.protocol import Environment, Protocol
from engine.study.trial import Measured, Measurement


def structure(layers: int = 12, blocks: int = 4, width: int = 64) -> Structure:
    """`layers` linear layers dealt into `blocks` blocks."""
    per = layers // blocks
    made = tuple(Layer(f"b{i // per}.l{i}", f"b{i // per}.l{i}", "linear", (width, width), 0, width, Role.OTHER,
                       f"b{i // per}", (f"b{i // per}.l{i}",)) for i in range(layers))
    groups = [tuple(x.name for x in made if x.block == f"b{b}") for b in range(blocks)]
    cards = tuple(Block(f"b{b}", "", "block", f"Block {b}", "conv", names, b, 0, "line")
                  for b, names in enumerate(groups))
    return Structure("fake", "Nothing", "f" * 64, 16, made, (), (), cards, (), 0, (), "line")


def protocol(**changes: Any) -> Protocol:
    """Eight images of four prompts."""
    s = structure()
    values: dict[str, Any] = {
        "model": "fake", "identity": s.identity, "components": "c", "precision_bits": 16,
        "choices": tuple(layer.name for layer in s.choices), "prompts": ("a", "b", "c", "d") * 2, "labels": (),
        "seeds": tuple(range(8)), "negative": "", "split": "s", "steps": 2, "guidance": 3.0, "scheduler": "S",
        "height": 16, "width": 16, "extractor": "",
    }
    return Protocol(**{**values, **changes})


def environment(**changes: Any) -> Environment:
    """A machine."""
    values: dict[str, Any] = {"device": "cpu", "machine": "m", "threads": 1, "dtype": "float32", "batch": 4,
                              "versions": {"torch": "1"}}
    return Environment(**{**values, **changes})


class FakeBench:
    """Damage of a layer is (position + 1) / 4^bits; every image adds noise of its own."""

    def __init__(self, job: Job) -> None:
        self.job = job
        other = {"identity": "e" * 64} if job.source == "other" else {}
        here = environment(machine="n" if job.source == "elsewhere" else "m")
        self.ready = Ready(protocol(**other), here, structure())

    def measure(self, options: Mapping[str, Option], cancel: Any = None) -> Measurement:
        check_cancel(cancel)
        source = self.job.source
        if source == "slow":
            time.sleep(0.02)
        if source == "die":
            os._exit(9)
        if source == "fail-3" and next(iter(options.values())).bits == 3:
            raise ValueError("three bits are too few")
        if source == "nan":
            return Measurement((Measured("psnr", float("nan"), 8, "dB", True),), 0.01, 0.01)
        values = self._values(options)
        return Measurement((Measured("image_mse", float(values.mean()), 8, "", False, values),
                            Measured("kernel_distance[x]", float(values.max()), 8, "", False)), 0.01, 0.009)

    def _values(self, options: Mapping[str, Option]) -> np.ndarray:
        damage = sum((i + 1) / 4**o.bits for i, o in enumerate(options.values()))
        text = sorted((k, str(v)) for k, v in options.items())
        noise = [derive("noise", text, image) / 2**63 for image in range(8)]
        return np.array([damage * (1 + 0.01 * n) for n in noise], np.float32)

    def close(self) -> None:
        """Nothing to give back."""


def open_fake(job: Job) -> FakeBench:
    """What `Job.bench` names."""
    if job.source == "absent":
        raise ModelError("There is no model at 'absent'; give a diffusers directory.")
    return FakeBench(job)


BENCH = "fake_bench:open_fake"
