"""The store of a model straight from its checkpoint files, without opening the model: one layer in memory at a time.

A directory whose files hold every weight under its own name serves as it is, and so does a single file whose weights
are renamed but otherwise left alone while loading (Stable Diffusion 1, 2 and XL). Other sources (tensors that are cut
up, joined or shared) are opened as models first, which takes the memory of the model.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from engine.core.graph import Structure
from engine.live.originals import Originals
from engine.live.store import Store
from engine.models.checkpoint import read_component
from engine.models.loading import check_types, check_unquantized, denoiser_entry, directory_of
from engine.models.sources import resolve
from engine.models.structure import read_structure


@contextlib.contextmanager
def opened_store(source: str | os.PathLike[str], directory: str | os.PathLike[str] | None = None) -> Iterator[Store]:
    """The store of a model, to build or read; written and let go of when the block ends.

    Args:
        source: catalogue name, diffusers directory, single file or hub id.
        directory: of the store; None is the model's own in the user's cache.

    Raises:
        ModelError: the weights are not here, or cannot be read.
        StoreError: the store belongs to another model.
    """
    streamed = streamable(source)
    if streamed is None:
        from engine.live.model import open_model

        model = open_model(source, store=Path(directory) if directory else None)
        try:
            yield model.store
        finally:
            model.close()
        return
    structure, originals = streamed
    store = Store.open(directory, structure, originals)
    try:
        yield store
    finally:
        store.close()
        originals.close()


def streamable(source: str | os.PathLike[str]) -> tuple[Structure, Originals] | None:
    """Structure and originals from a model's files; None where only the opened model has them.

    Raises:
        ModelError: the weights are not here, damaged, or of a type that holds no weights.
    """
    found = resolve(source)
    if found.file:
        return _from_file(found.file)
    home = directory_of(found)
    structure = read_structure(source)
    name, _ = denoiser_entry(home)
    check_unquantized(home / name)
    stored = read_component(home / name)
    wanted = {f"{layer.module}.weight" for layer in structure.layers}
    if not structure.identity or not wanted <= set(stored.tensors):
        return None
    check_types(stored, wanted, f"{home.name}/{name}")
    return structure, Originals({key: stored.tensors[key].file for key in wanted})


def _from_file(file: Path) -> tuple[Structure, Originals] | None:
    from engine.models.single_file import read_denoiser

    read = read_denoiser(file)
    if read is None:
        return None
    structure, names = read
    return structure, Originals(dict.fromkeys(names, file), names=names)
