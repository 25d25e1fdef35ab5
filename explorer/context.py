"""What all viewers share: the open models, their scores and tables, and the worker of the device."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.core.errors import EngineError
from engine.core.graph import Structure
from engine.core.option import Option
from engine.core.placement import PLAIN, Placement
from engine.core.recipe import uniform_bits
from engine.core.record import Scores
from explorer.backend import Backend, LiveBackend, StructureBackend
from explorer.overlays import overlay_names
from explorer.server import Binding
from explorer.worker import Worker

OPEN_MODELS = 3
FIRST_BITS = 4


@dataclass
class OpenModel:
    """A model on the page: backend, overlays and the parts of the page that never change while it is open."""

    backend: Backend
    overlays: list[tuple[str, str]]
    graph: str
    order: tuple[str, ...]

    @property
    def structure(self) -> Structure:
        """The model's structure."""
        return self.backend.structure

    def first_options(self) -> dict[str, Option]:
        """What a freshly opened model shows: uniform 4 bits of the default method."""
        return dict(uniform_bits(self.structure, FIRST_BITS).options)


@dataclass
class Context:
    """Shared by all sessions of one server."""

    bound: Binding
    placement: Placement = PLAIN
    worker: Worker = field(default_factory=Worker)
    _models: OrderedDict[str, OpenModel] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _turns: dict[str, threading.Lock] = field(default_factory=dict)

    def model(self, name: str) -> OpenModel:
        """The model of that name, opened if need be; structure and scores only, no torch.

        Raises:
            ModelError: it cannot be opened.
        """
        with self._lock:
            if name in self._models:
                self._models.move_to_end(name)
                return self._models[name]
        with self._turn(name):
            try:
                found = self._models.get(name) or self._open(name)
            except EngineError:
                self._turns.pop(name, None)
                raise
            with self._lock:
                self._models[name] = found
                while len(self._models) > OPEN_MODELS:
                    self._models.popitem(last=False)
            return found

    def _turn(self, name: str) -> threading.Lock:
        """Opening takes seconds, during which others' models must be at hand: so a lock per name."""
        with self._lock:
            return self._turns.setdefault(name, threading.Lock())

    def _open(self, name: str) -> OpenModel:
        from engine.models.structure import read_structure
        from engine.providers.files import find_scores

        structure = read_structure(name)
        return opened_with(self._backend(name, structure, find_scores(structure)))

    def refreshed(self, name: str) -> OpenModel:
        """The same model after scores, a predictor or tables of it were written; weights and pictures stay.

        Raises:
            ModelError: it cannot be opened any more.
        """
        from engine.providers.files import find_scores

        model = self.model(name)
        with self._turn(name):
            model.backend.scores = find_scores(model.structure)
            again = opened_with(model.backend)
            model.overlays, model.graph = again.overlays, again.graph
        return model

    def _backend(self, name: str, structure: Structure, scores: Mapping[str, Scores]) -> Backend:
        why = why_no_pictures(name)
        if why:
            return StructureBackend(structure, scores, why)
        return LiveBackend(name, structure, scores, self.placement)


def opened_with(backend: Backend) -> OpenModel:
    """The parts of the page that follow from a backend's structure and scores, and what is known of layer inputs."""
    from engine.calibrate.activation_files import find_activation_errors
    from engine.live.tableheads import find_heads
    from explorer.gauge import page_table
    from explorer.graphview.card import graph_text
    from explorer.inputs import inputs_data

    structure, scores = backend.structure, backend.scores
    table, gauge = page_table(structure, scores)
    inputs = inputs_data(structure, find_heads(structure), find_activation_errors(structure), table.values,
                         scores.get("weight-error"))
    graph = graph_text(structure, table.values, scaled=table.scaled, gauge=gauge.as_data(), inputs=inputs)
    return OpenModel(backend, overlay_names(scores), graph, tuple(x.name for x in structure.choices))


def why_no_pictures(name: str) -> str:
    """The reason a catalogue model is shown without pictures, or "" where its weights can be loaded."""
    from engine.models.catalog import MODELS, weights_present

    if name not in MODELS or weights_present(MODELS[name]):
        return ""
    return (f"The weights of {MODELS[name].title} are not on this machine, so graph, sizes and recipes work but no "
            f"pictures. Type a local diffusers directory, or {MODELS[name].source} to download it, into the model box.")


def sentence(error: Exception) -> str:
    """What a viewer is told: the sentence of an expected error, a plain one for anything else."""
    if isinstance(error, EngineError):
        return str(error)
    return f"Something failed that should not have ({type(error).__name__}); the recipe is kept, try again."
