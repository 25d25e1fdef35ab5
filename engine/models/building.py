"""Builds the structure of a denoiser: a twin without weights is traced, and the result folded into records.

A few denoisers look at the values of their inputs and cannot run without weights; those are traced within their
pipeline, on the inputs it first gives them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from engine.core.errors import ModelError
from engine.core.graph import Component, Node, Structure
from engine.models.blockgraph import block_graph
from engine.models.blocks import Folder, block_forest
from engine.models.calls import call_arguments
from engine.models.catalog import rules_for
from engine.models.checkpoint import Checkpoint
from engine.models.inputs import example_inputs
from engine.models.layers import anatomy, owners
from engine.models.quiet import quiet
from engine.models.tracing import Trace, trace

# What a forward may raise on inputs it was not made for.
UNRUNNABLE = (TypeError, ValueError, KeyError, AttributeError, NotImplementedError, RuntimeError, IndexError)


def meta_twin(cls: Any, config: Mapping[str, Any]) -> nn.Module:
    """A module of this class and configuration on the meta device: shapes without weights.

    Raises:
        ModelError: the configuration does not fit the class.
    """
    plain = {k: v for k, v in config.items() if not k.startswith("_")}
    try:
        with quiet(), torch.device("meta"):
            twin = cls.from_config(plain)
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError, RuntimeError,
            ZeroDivisionError) as failure:
        raise ModelError(f"The configuration does not describe a {cls.__name__} ({str(failure)[:160]}); "
                         f"download the model again.") from None
    return twin.eval().to("meta")


def check_shapes(stored: Checkpoint, twin: nn.Module, place: str) -> None:
    """Refuse files whose tensors have other shapes than the configuration says.

    Raises:
        ModelError: the first tensor that differs.
    """
    for name, tensor in twin.named_parameters():
        shape = stored.tensors[name].shape if name in stored.tensors else tuple(tensor.shape)
        if shape != tuple(tensor.shape):
            raise ModelError(f"{place} does not fit its config.json: {name} is {list(shape)}, expected "
                             f"{list(tensor.shape)}; weights and configuration belong to different models.")


def build_structure(
    twin: nn.Module, *, model: str, precision_bits: int, identity: str = "", components: tuple[Component, ...] = (),
    owner: Mapping[str, str] | None = None, run: Trace | None = None,
) -> Structure:
    """The structure of a denoiser.

    Args:
        twin: the module on the meta device.
        model: the name it is opened under.
        precision_bits, identity, components: see `Structure`.
        owner: weight module path -> path its tensor is known under, where the live module shares tensors.
        run: its trace, if it was made before.

    Raises:
        NeedsWeightsError: it cannot be run without weights.
        ModelError: it has nothing to quantize.
    """
    config: Mapping[str, Any] = twin.config  # type: ignore[assignment]
    owner = owner or owners(twin)
    with quiet():
        run = run or _run(twin, config, owner)
    found = anatomy(twin, run, owner, rules_for(type(twin).__name__, config))
    if not found.layers:
        raise ModelError(f"{type(twin).__name__} has no linear or convolution layers; there is nothing to quantize.")
    folder = Folder(twin, [layer.module for layer in found.layers])
    graph = block_graph(folder, found.parts, run.heights)
    layers = tuple(replace(layer, block=folder.address(layer.module).block) for layer in found.layers)
    nodes = tuple(Node(p.id, p.kind, p.layer, b) for p, b in zip(found.parts, graph.of_part, strict=True))
    edges = tuple((source, n) for n, part in enumerate(found.parts) for source in sorted(part.inputs))
    return Structure(
        model=model, denoiser_class=type(twin).__name__, identity=identity, precision_bits=precision_bits,
        layers=layers, nodes=nodes, edges=edges, blocks=block_forest(folder, layers, graph.places),
        block_edges=graph.edges, other_weights=_stored_weights(twin, owner) - sum(x.weights for x in layers),
        components=components, layout=graph.layout,
    )


def _run(twin: nn.Module, config: Mapping[str, Any], owner: Mapping[str, str]) -> Trace:
    """Trace with as few inputs as possible, else with all that are known."""
    failures: list[Exception] = []
    for sparing in (True, False):
        try:
            return trace(twin, example_inputs(twin, config, sparing=sparing), owner)
        except UNRUNNABLE as failure:
            failures.append(failure)
    reason = (str(failures[0]) or type(failures[0]).__name__).splitlines()[0][:160]
    raise NeedsWeightsError(f"{type(twin).__name__} cannot be traced without its weights ({reason}); "
                            f"open a directory that has them.") from failures[0]


def run_in_pipeline(pipeline: Any, denoiser: nn.Module, owner: Mapping[str, str]) -> Trace:
    """Trace a denoiser with its weights, on the very inputs that its pipeline gives it first.

    Raises:
        ModelError: the pipeline does not run.
    """

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(dict(inspect.signature(denoiser.forward).bind(*args, **kwargs).arguments))

    hook = denoiser.register_forward_pre_hook(stop, with_kwargs=True)
    arguments = call_arguments(pipeline, Probe())
    try:
        with torch.no_grad():
            pipeline(**arguments, generator=torch.Generator().manual_seed(0), output_type="np")
    except _Reached as reached:
        hook.remove()
        try:
            return trace(denoiser, reached.inputs, owner)
        except UNRUNNABLE as failure:
            raise _not_traceable(denoiser, failure) from failure
    except UNRUNNABLE as failure:
        raise _not_traceable(denoiser, failure) from failure
    finally:
        hook.remove()
    raise _not_traceable(denoiser, "its pipeline never called it")


@dataclass(frozen=True)
class Probe:
    """The smallest request, to see how a pipeline calls its denoiser."""

    prompts: tuple[str, ...] = ("a",)
    labels: tuple[int, ...] = (0,)
    negative: str = ""
    seeds: tuple[int, ...] = (0,)
    steps: int | None = 2
    guidance: float | None = 1.0
    height: int | None = 256
    width: int | None = 256


class NeedsWeightsError(ModelError):
    """A denoiser whose forward looks at values, so that it cannot run on the meta device."""


class _Reached(Exception):
    """Raised by the hook when the pipeline calls its denoiser."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        super().__init__()
        self.inputs = inputs


def _not_traceable(denoiser: nn.Module, reason: object) -> ModelError:
    text = (str(reason) or type(reason).__name__).splitlines()[0][:160]
    return ModelError(f"{type(denoiser).__name__} cannot be traced ({text}); this architecture is not supported.")


def _stored_weights(twin: nn.Module, owner: Mapping[str, str]) -> int:
    """Values a checkpoint of this module holds: parameters and persistent buffers, shared tensors once."""
    shared = {f"{path}.weight" for path, first in owner.items() if path != first}
    return sum(t.numel() for name, t in twin.state_dict().items() if name not in shared)
