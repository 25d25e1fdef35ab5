"""`inspect`: the anatomy of a model from its cached trace, without loading weights."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from engine.cli.table import aligned


def arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and whether to list layers."""
    parser.add_argument("model", metavar="MODEL", help="catalogue name, diffusers directory, .safetensors or hub id")
    parser.add_argument("--layers", action="store_true", help="list every layer")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Counts, bytes and blocks."""
    from engine.core.footprint import full_footprint
    from engine.core.sizes import BYTES_PER_MB, full_bytes
    from engine.models.structure import read_structure

    s = read_structure(args.model)
    blocks = s.level("block")
    result = {
        "model": s.model, "denoiser_class": s.denoiser_class, "identity": s.identity, "layout": s.layout,
        "precision_bits": s.precision_bits,
        "layers": len(s.layers), "unique_layers": len(s.choices),
        "modules": len({m for layer in s.layers for m in layer.modules}),
        "weights": sum(layer.weights for layer in s.layers), "fp_bytes": full_bytes(s),
        "other_weights": s.other_weights, "graph": {"nodes": len(s.nodes), "edges": len(s.edges)},
        "blocks": [{"id": b.id, "label": b.label, "kind": b.kind, "layers": len(b.layers)} for b in blocks],
        "components": [{"name": c.name, "type": c.type, "bytes": c.bytes} for c in s.components],
        "pipeline_bytes": full_footprint(s).total,
    }
    lines = [
        f"{s.model}: {s.denoiser_class}, {len(s.layers)} layers ({len(s.choices)} choices), "
        f"{result['weights']:,} weights, {result['fp_bytes'] / BYTES_PER_MB:,.2f} MB at {s.precision_bits} bits",
        f"operation graph: {len(s.nodes)} nodes, {len(s.edges)} edges; {len(blocks)} blocks, "
        f"{len(s.block_edges)} block edges ({sum(e.skip for e in s.block_edges)} long skips), layout {s.layout}",
        full_footprint(s).sentence(),
        "roles: " + ", ".join(f"{n} {role}" for role, n in Counter(layer.role.value for layer in s.layers).items()),
        "",
        aligned(("block", "kind", "layers", "weights"),
                [(b.label, b.kind, len(b.layers), _weights(s, b.layers)) for b in blocks]),
    ]
    if args.layers:
        result["layer_list"] = [
            {"name": x.name, "role": x.role.value, "shape": list(x.shape), "block": x.block, "tie": x.tie}
            for x in s.layers
        ]
        lines += ["", aligned(("layer", "role", "shape", "weights"),
                              [(x.name, x.role.value, "x".join(map(str, x.shape)), x.weights) for x in s.layers])]
    return result, "\n".join(lines)


def _weights(structure: Any, names: tuple[str, ...]) -> int:
    wanted = set(names)
    return sum(layer.weights for layer in structure.layers if layer.name in wanted)
