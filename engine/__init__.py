"""Quantscape's engine: see, edit, prove and ship the bit-widths of a diffusion model.

Glossary: a *layer* is one quantizable weight tensor or one half of a split one; a *block* is a node of
the block graph; an *option* is method + bits; a *recipe* maps layers to options; a *store* holds quantized
layers on disk; a *trial* is one recipe measured, a *study* many trials; a *score* is predicted, a *metric*
is measured.

Shape alphabet: O out channels, I inputs per channel (in x kh x kw, flattened), K codebook size, G groups,
B batch, C H W, L layers, N nodes, E edges, T trials.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# The public Python API, imported on first use so that `import engine` stays free of torch.
_PUBLIC = {
    "EngineError": "engine.core.errors",
    "Option": "engine.core.option",
    "parse_option": "engine.core.option",
    "Recipe": "engine.core.recipe",
    "load_recipe": "engine.core.recipe",
    "save_recipe": "engine.core.recipe",
    "uniform": "engine.core.recipe",
    "sizes": "engine.core.recipe",
    "read_structure": "engine.models.structure",
    "open_model": "engine.live.model",
    "applied": "engine.live.apply",
    "Request": "engine.live.request",
    "generate": "engine.live.generate",
    "pictures": "engine.live.generate",
    "save_png": "engine.live.png",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
