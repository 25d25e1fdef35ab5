"""What a user may name as a model, found without importing torch: catalogue row, directory, file or hub repository.

Nothing in a directory is believed before it is checked: the index must name classes of the installed libraries (a
module of its own would be a stranger's code, which is never run).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engine.core.errors import ModelError
from engine.core.files import read_json, typed_path
from engine.models.catalog import MODELS, ModelRow, cached_snapshot, local_directory
from engine.models.checkpoint import PICKLES

INDEX = "model_index.json"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LIBRARIES = ("diffusers", "transformers")
EXPECTED = ("a name of the catalogue (python -m engine models), a diffusers directory, a .safetensors file, "
            "or a hub id such as owner/name")


@dataclass(frozen=True, slots=True)
class Source:
    """A model the user named.

    Attributes:
        name: as it was named.
        row: its row in the catalogue, if it was named by it.
        directory: its pipeline directory on this machine.
        file: its single-file checkpoint.
        hub_id: the repository it would come from.
    """

    name: str
    row: ModelRow | None = None
    directory: Path | None = None
    file: Path | None = None
    hub_id: str = ""


def resolve(name: str | os.PathLike[str]) -> Source:
    """Find what a name stands for.

    Raises:
        ModelError: nothing that could be opened has this name; one sentence.
    """
    text = os.fspath(name)
    if text in MODELS:
        row = MODELS[text]
        return Source(text, row=row, directory=local_directory(row), hub_id=row.source)
    try:
        path = typed_path(text, ModelError)
    except ModelError as failure:
        raise ModelError(f"{failure} Expected {EXPECTED}.") from None
    if path.is_dir():
        return Source(text, directory=_pipeline_directory(path))
    if path.is_file():
        return Source(text, file=_checkpoint_file(path))
    if path.suffix in PICKLES:
        raise ModelError(_pickled(path))
    if HUB_ID.fullmatch(text) and path.suffix != ".safetensors" and not path.parent.is_dir():
        row = next((r for r in MODELS.values() if r.source == text), None)
        return Source(text, row=row, directory=cached_snapshot(text), hub_id=text)
    raise ModelError(f"There is no model {text[:200]!r}: expected {EXPECTED}.")


def _pipeline_directory(path: Path) -> Path:
    if (path / INDEX).is_file():
        return path.resolve()
    if (path / "config.json").is_file():
        raise ModelError(f"{path} holds one component, not a whole pipeline: expected a directory with {INDEX}; "
                         f"name the directory above it.")
    raise ModelError(f"{path} is no diffusers pipeline: it has no {INDEX}; name a directory made by save_pretrained.")


def _checkpoint_file(path: Path) -> Path:
    if path.suffix == ".safetensors":
        return path.resolve()
    if path.suffix in PICKLES:
        raise ModelError(_pickled(path))
    raise ModelError(f"{path.name} is no checkpoint: expected {EXPECTED}.")


def _pickled(path: Path) -> str:
    return (f"{path.name} is a pickled checkpoint, which can run code when it is read; convert it to .safetensors "
            f"and open that.")


def read_index(directory: Path) -> tuple[str, dict[str, tuple[str, str]]]:
    """Pipeline class and components (name -> library, class) of a pipeline directory.

    Raises:
        ModelError: malformed, or it names code that is not part of the installed libraries.
    """
    index = read_json(directory / INDEX, ModelError)
    name = index.get("_class_name") if isinstance(index, dict) else None
    if isinstance(name, list):
        raise ModelError(f"{directory.name}/{INDEX} brings pipeline code of its own, which is never run; "
                         f"open a pipeline whose class is part of diffusers.")
    if not isinstance(name, str) or not name.isidentifier():
        raise ModelError(f"{directory.name}/{INDEX} does not say which pipeline it is (_class_name); "
                         f"name a directory made by save_pretrained.")
    components = {}
    for key, entry in index.items():
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry):
            library, cls = entry
            if library not in LIBRARIES and not _is_pipeline_module(library):
                raise ModelError(f"{directory.name}/{INDEX} takes {key} from {library[:60]!r}, which is not part of "
                                 f"diffusers or transformers; code from models is never run.")
            components[key] = (library, cls)
            _check_component(directory, key)
    return name, components


def _is_pipeline_module(name: str) -> bool:
    """Whether it is a folder of diffusers' own pipelines (`stable_diffusion` holds the safety checker)."""
    spec = find_spec("diffusers") if re.fullmatch(r"\w+", name) else None
    places = spec.submodule_search_locations if spec else None
    return any((Path(place) / "pipelines" / name / "__init__.py").is_file() for place in places or ())


def _check_component(directory: Path, name: str) -> None:
    folder = directory / name
    if not folder.is_dir():
        raise ModelError(f"{directory.name} has no {name}/ although its {INDEX} lists it; finish the download.")
    config = component_config(folder)
    if "auto_map" in config:
        raise ModelError(f"{directory.name}/{name} asks for code of its own (auto_map), which is never run; "
                         f"open a model whose classes are part of diffusers and transformers.")


def component_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a component, {} if it has none (schedulers and tokenizers).

    Raises:
        ModelError: it is no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    config = read_json(path, ModelError)
    if not isinstance(config, dict):
        raise ModelError(f"{folder.name}/config.json is no JSON object; download the model again.")
    return config
