"""The tracer on small hand-made networks whose graphs are known, and layers, roles and blocks read from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from engine.core.graph import NodeKind
from engine.core.layer import Role
from engine.models.blockgraph import block_graph
from engine.models.blocks import Folder, block_forest
from engine.models.catalog import Rules
from engine.models.layers import Anatomy, anatomy, owners
from engine.models.tracing import Trace, trace, weight_modules


class Net(nn.Module):
    """Modules given by name and a forward given as a function of (self, sample, timestep)."""

    def __init__(self, forward: Any, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.run = forward

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.run(self, sample, timestep)


def run(forward: Any, shape: tuple[int, ...] = (1, 4, 8, 8), **modules: nn.Module) -> tuple[Net, Trace]:
    net = Net(forward, **modules).to("meta")
    inputs = {"sample": torch.empty(shape, device="meta"), "timestep": torch.empty(1, 4, device="meta")}
    return net, trace(net, inputs, owners(net))


def edges(found: Trace) -> set[tuple[str, str]]:
    """Edges by name: weights by path, junctions by kind."""
    names = [op.path if op.kind is NodeKind.WEIGHT else op.kind.value for op in found.ops]
    return {(names[source], names[n]) for n, op in enumerate(found.ops) for source in op.inputs}


def conv(inputs: int, outputs: int, size: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


def test_a_chain_through_transparent_operations() -> None:
    _, found = run(lambda n, x, t: n.b(torch.relu(n.norm(n.a(x))).flatten(2).unflatten(2, (8, 8)) * 2 + 1),
                   a=conv(4, 4), norm=nn.GroupNorm(2, 4), b=conv(4, 4))
    assert edges(found) == {("a", "b")}
    assert [op.path for op in found.ops] == ["a", "b"]
    assert found.outputs == {1}


def test_a_residual_add_is_one_node_and_keeps_edges_few() -> None:
    def forward(n: Net, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x = n.first(x)
        for layer in n.layers:
            x = x + layer(x)
        return n.last(x)

    _, found = run(forward, first=conv(4, 4), layers=nn.ModuleList(conv(4, 4) for _ in range(20)), last=conv(4, 4))
    assert sum(op.kind is NodeKind.ADD for op in found.ops) == 20
    assert sum(len(op.inputs) for op in found.ops) == 20 * 3 + 1
    assert ("layers.3", "layers.4") not in edges(found)


def test_in_place_writes_are_seen() -> None:
    def forward(n: Net, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        y = n.a(x)
        y += n.b(x)
        out = torch.zeros_like(y)
        out[:, :2] = y[:, :2]
        return n.c(out)

    _, found = run(forward, a=conv(4, 4), b=conv(4, 4), c=conv(4, 4))
    assert edges(found) == {("a", "add"), ("b", "add"), ("add", "c")}


def test_scale_and_shift_are_one_modulation() -> None:
    def forward(n: Net, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        scale, shift = n.time(t)[:, :, None, None].chunk(2, dim=1)
        return n.b(n.a(x) * (1 + scale) + shift)

    _, found = run(forward, time=nn.Linear(4, 8), a=conv(4, 4), b=conv(4, 4))
    assert edges(found) == {("time", "modulate"), ("a", "modulate"), ("modulate", "b")}
    assert sum(op.kind is NodeKind.MODULATE for op in found.ops) == 1


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_one_node(fused: bool) -> None:
    def forward(n: Net, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x)[:, None] for layer in (n.q, n.k, n.v))
        if fused:
            return n.out(nn.functional.scaled_dot_product_attention(q, k, v)[:, 0])
        return n.out(((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v)[:, 0])

    _, found = run(forward, (1, 6, 4), **{name: nn.Linear(4, 4) for name in ("q", "k", "v", "out")})
    assert edges(found) == {("q", "attention"), ("k", "attention"), ("v", "attention"), ("attention", "out")}


def test_a_layer_that_runs_twice_makes_no_cycle() -> None:
    _, found = run(lambda n, x, t: n.b(n.a(n.b(n.a(x)))), a=conv(4, 4), b=conv(4, 4))
    assert edges(found) == {("a", "b")}
    assert all(source < n for n, op in enumerate(found.ops) for source in op.inputs)


def test_a_weight_used_outside_its_module_is_seen() -> None:
    _, found = run(lambda n, x, t: n.b(nn.functional.conv2d(x, n.a.weight)), a=conv(4, 4), b=conv(4, 4))
    assert edges(found) == {("a", "b")}


def test_shared_tensors_are_one_layer_with_all_its_users() -> None:
    net = Net(lambda n, x, t: n.c(n.b(n.a(x))), a=conv(4, 4), b=conv(4, 4), c=conv(4, 4))
    net.b.weight = net.a.weight
    owner = owners(net)
    assert owner == {"a": "a", "b": "a", "c": "c"}
    net = net.to("meta")
    net.b.weight = net.a.weight
    inputs = {"sample": torch.empty(1, 4, 8, 8, device="meta"), "timestep": torch.empty(1, 4, device="meta")}
    found = anatomy(net, trace(net, inputs, owner), owner, Rules())
    assert [(layer.name, layer.modules) for layer in found.layers] == [("a", ("a", "b")), ("c", ("c",))]


# --- splits ------------------------------------------------------------------------------------------------------

PICTURE = (1, 4, 8, 8)


def cut(forward: Any, rules: Rules | None = None, shape: tuple[int, ...] = PICTURE, **modules: nn.Module) -> Anatomy:
    net, found = run(forward, shape, **modules)
    return anatomy(net, found, owners(net), rules or Rules())


def names(found: Anatomy) -> list[str]:
    return [layer.name for layer in found.layers]


def test_a_convolution_fed_by_a_concat_of_feature_maps_is_split_at_the_first() -> None:
    found = cut(lambda n, x, t: n.c(torch.cat([n.a(x), n.b(x)], 1)), a=conv(4, 3), b=conv(4, 5), c=conv(8, 2))
    assert names(found) == ["a", "b", "c:0", "c:1"]
    trunk, skip = found.layers[2:]
    assert (trunk.shape, trunk.start, trunk.stop) == ((2, 3, 1, 1), 0, 3)
    assert (skip.shape, skip.start, skip.stop) == ((2, 5, 1, 1), 3, 8)
    parts = {part.id: {found.parts[i].id for i in part.inputs} for part in found.parts}
    assert parts == {"a": set(), "b": set(), "c:0": {"a"}, "c:1": {"b"}, "c/add0": {"c:0", "c:1"}}


@pytest.mark.parametrize(("width", "forward"), [
    (8, lambda n, x, t: n.c(torch.relu(torch.cat([n.a(x), n.b(x)], 1)))),  # not directly
    (12, lambda n, x, t: n.c(torch.cat([n.a(x), n.b(x), x], 1))),  # three parts
    (8, lambda n, x, t: n.c(torch.cat([n.a(n.b(x)), x], 1))),  # one is the input, no feature map
    (4, lambda n, x, t: n.c(torch.cat([n.a(x)[:, :, :4], n.b(x)[:, :, 4:]], 2))),  # rows, not channels
    (4, lambda n, x, t: n.c(n.a(x)) + n.b(x)),
])
def test_nothing_else_is_split(width: int, forward: Any) -> None:
    found = cut(forward, a=conv(4, 4), b=conv(4, 4), c=conv(width, 4))
    assert sorted(names(found)) == ["a", "b", "c"]


def test_linear_layers_are_split_by_the_catalogue_only() -> None:
    def forward(n: Net, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return n.c(n.norm(torch.cat([n.a(x), n.b(x)], -1)))

    modules = {"a": nn.Linear(4, 3), "b": nn.Linear(4, 5), "norm": nn.LayerNorm(8), "c": nn.Linear(8, 2)}
    assert names(cut(forward, shape=(1, 6, 4), **modules)) == ["a", "b", "c"]
    assert names(cut(forward, Rules(split="c"), (1, 6, 4), **modules)) == ["a", "b", "c:0", "c:1"]


def test_excluded_layers_vanish_from_layers_and_graph() -> None:
    found = cut(lambda n, x, t: n.c(n.b(n.a(x))), Rules(exclude="b"), a=conv(4, 4), b=conv(4, 4), c=conv(4, 4))
    assert names(found) == ["a", "c"]
    assert [part.inputs for part in found.parts] == [set(), {0}]


def test_ties_copy_the_first() -> None:
    layers = nn.ModuleList(nn.ModuleDict({"x": conv(4, 4), "y": conv(4, 4)}) for _ in range(3))
    found = cut(lambda n, x, t: n.l[2]["y"](n.l[2]["x"](n.l[1]["y"](n.l[1]["x"](n.l[0]["y"](n.l[0]["x"](x)))))),
                Rules(tie=r"l\.\d+\.(x|y)"), l=layers)
    assert [layer.tie for layer in found.layers] == ["", "", "l.0.x", "l.0.y", "l.0.x", "l.0.y"]


def test_layers_that_never_run_come_last() -> None:
    found = cut(lambda n, x, t: n.b(n.a(x)), never=conv(4, 4), b=conv(4, 4), a=conv(4, 4))
    assert names(found) == ["a", "b", "never"]
    assert found.layers[2].role is Role.OTHER


# --- roles ---------------------------------------------------------------------------------------------------------

def test_roles_come_from_place_and_flow() -> None:
    def forward(n: Net, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        emb = n.t2(n.t1(t))
        h = n.first(x)
        h = h + n.shift(emb)[:, :, None, None]
        return n.last(n.middle(h))

    found = cut(forward, t1=nn.Linear(4, 4), t2=nn.Linear(4, 4), shift=nn.Linear(4, 4), first=conv(4, 4),
                middle=conv(4, 4), last=conv(4, 4))
    roles = {layer.name: layer.role for layer in found.layers}
    assert roles == {"t1": Role.TIME, "t2": Role.TIME, "shift": Role.MODULATION, "first": Role.INPUT,
                     "middle": Role.OTHER, "last": Role.OUTPUT}


def test_the_output_may_be_a_sum() -> None:
    found = cut(lambda n, x, t: n.last(n.a(x)) + n.a(x), a=conv(4, 4), last=conv(4, 4))
    assert {layer.name: layer.role for layer in found.layers}["last"] is Role.OUTPUT


# --- blocks --------------------------------------------------------------------------------------------------------

def tiny_u() -> Net:
    """conv_in, two levels of (resnet-like, sampler), a middle, long skips by concat, conv_out."""

    def pair(inputs: int) -> nn.Module:
        return nn.ModuleDict({"conv1": conv(inputs, 4, 3), "conv2": conv(4, 4, 3)})

    def level(inputs: int, sampler: str, stride: int) -> nn.Module:
        scale = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, stride=stride, padding=1)})
        return nn.ModuleDict({"resnets": nn.ModuleList([pair(inputs)]), sampler: nn.ModuleList([scale])})

    def forward(n: Net, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x, skips = n.conv_in(x), []
        for down in n.down_blocks:
            resnet = down["resnets"][0]
            x = resnet["conv2"](resnet["conv1"](x))
            skips.append(x)
            x = down["downsamplers"][0]["conv"](x)
        x = n.mid_block["conv"](x)
        for up in n.up_blocks:
            x = up["upsamplers"][0]["conv"](nn.functional.interpolate(x, scale_factor=2.0))
            resnet = up["resnets"][0]
            x = resnet["conv2"](torch.relu(resnet["conv1"](torch.cat([x, skips.pop()], 1))))
        return n.conv_out(x)

    return Net(forward, conv_in=conv(4, 4, 3), down_blocks=nn.ModuleList(level(4, "downsamplers", 2) for _ in range(2)),
               mid_block=nn.ModuleDict({"conv": conv(4, 4, 3)}),
               up_blocks=nn.ModuleList(level(8, "upsamplers", 1) for _ in range(2)), conv_out=conv(4, 4, 3))


def test_a_u_is_drawn_as_a_u() -> None:
    net = tiny_u().to("meta")
    inputs = {"sample": torch.empty(1, 4, 16, 16, device="meta"), "timestep": torch.empty(1, 4, device="meta")}
    traced = trace(net, inputs, owners(net))
    found = anatomy(net, traced, owners(net), Rules())
    folder = Folder(net, [layer.module for layer in found.layers])
    # the modules of this net are called by hand, so the tracer saw no outputs of blocks: heights are given
    rows = {"conv_in": 16, "down_blocks.0.resnets.0": 16, "down_blocks.0.downsamplers.0": 8, "mid_block": 4,
            "down_blocks.1.resnets.0": 8, "down_blocks.1.downsamplers.0": 4, "up_blocks.0.upsamplers.0": 8,
            "up_blocks.0.resnets.0": 8, "up_blocks.1.upsamplers.0": 16, "up_blocks.1.resnets.0": 16, "conv_out": 16}
    graph = block_graph(folder, found.parts, rows)
    assert graph.layout == "u"
    skips = [(e.source, e.target) for e in graph.edges if e.skip]
    assert skips == [("down_blocks.0.resnets.0", "up_blocks.1.resnets.0"),
                     ("down_blocks.1.resnets.0", "up_blocks.0.resnets.0")]
    chain = [(e.source, e.target) for e in graph.edges if not e.skip]
    assert len(chain) == len(rows) - 1
    blocks = [b for b in block_forest(folder, found.layers, graph.places) if b.level == "block"]
    assert [(b.label, b.side, b.depth) for b in blocks] == [
        ("Conv in", "down", 0), ("Down 0 · ResNet", "down", 0), ("Down 0 · Downsample", "down", 1),
        ("Down 1 · ResNet", "down", 1), ("Down 1 · Downsample", "mid", 2), ("Mid", "mid", 2),
        ("Up 0 · Upsample", "mid", 1), ("Up 0 · ResNet", "up", 1), ("Up 1 · Upsample", "up", 0),
        ("Up 1 · ResNet", "up", 0), ("Conv out", "up", 0),
    ]
    assert [b.kind for b in blocks] == ["conv", "resnet", "sampler", "resnet", "sampler", "conv", "sampler", "resnet",
                                        "sampler", "resnet", "conv"]


def test_weight_modules_include_subclasses() -> None:
    class Adapted(nn.Linear):
        pass

    net = nn.ModuleDict({"a": Adapted(2, 2), "b": nn.Conv1d(2, 2, 1), "c": nn.LayerNorm(2), "d": nn.Embedding(2, 2)})
    assert list(weight_modules(net)) == ["a", "b"]
