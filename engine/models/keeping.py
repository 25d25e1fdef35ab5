"""Where structures are kept between runs: sealed JSON in the user's cache, or shipped beside a model's weights.

Constraints: reading needs neither torch nor diffusers; a damaged or outdated file is as good as none. The cache is
keyed by what a structure is made from: paths, sizes and times of the model's files, or the catalogue row. A shipped
`structure.json` is sealed with the contents of the model's files, since times do not survive a copy. Both depend on
the code that makes structures, so that a change there is never hidden by an old answer. The cache is
`$QUANTSCAPE_CACHE`, else `$XDG_CACHE_HOME/quantscape`, else `~/.cache/quantscape`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engine.core.errors import EngineError, ModelError
from engine.core.files import write_atomic
from engine.core.graph import Structure
from engine.models.compact import from_compact, to_compact
from engine.models.sources import Source

MAKERS = ("tracing", "inputs", "layers", "blocks", "blockgraph", "building", "catalog", "compact", "identity")
SHIPPED = "structure.json"
LIBRARIES = ("diffusers", "torch")


def cache_file(source: Source) -> Path:
    """Where the structure of a model belongs in the cache.

    Raises:
        ModelError: one of its files has just vanished.
    """
    return cache_directory() / "structures" / f"{_key(source)}.json"


def read_cached(place: Path) -> Structure | None:
    """The structure in a cache file, None if it is missing, damaged or of another version."""
    return _unsealed(place, lambda text: hashlib.sha256(text).hexdigest())


def write_cached(place: Path, structure: Structure) -> None:
    """Keep a structure; a full or read-only disk is no error, it is only a cache."""
    text = to_compact(structure)
    with contextlib.suppress(EngineError):
        write_atomic(place, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def read_shipped(directory: Path) -> Structure | None:
    """The structure that came with the weights, None if there is none or the files have changed since."""
    place = directory / SHIPPED
    return _unsealed(place, lambda text: _content(directory)) if place.is_file() else None


def write_shipped(directory: Path, structure: Structure) -> Path:
    """Put a structure beside the weights it was made from.

    Raises:
        EngineError: the directory is not writable.
    """
    write_atomic(directory / SHIPPED, f"{_content(directory)}\n{to_compact(structure)}")
    return directory / SHIPPED


def cache_directory() -> Path:
    """The user's cache for this program."""
    own = os.environ.get("QUANTSCAPE_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quantscape"


def _unsealed(place: Path, seal_of: Callable[[bytes], str]) -> Structure | None:
    try:
        seal, _, text = place.read_bytes().partition(b"\n")
        return from_compact(text) if seal.decode() == seal_of(text) else None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _code() -> str:
    """Hash over the modules that decide what a structure says."""
    digest = hashlib.sha256()
    for name in MAKERS:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()


def _content(directory: Path) -> str:
    """Hash over names and contents of the files a structure is made from."""
    digest = hashlib.sha256(_code().encode())
    for file in _made_from(directory):
        digest.update(f"|{file.relative_to(directory).as_posix()}|".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _made_from(directory: Path) -> list[Path]:
    """Configurations and weights of a pipeline directory, in order of their names."""
    files = (p for p in directory.rglob("*") if p.suffix in (".json", ".safetensors"))
    return sorted(p for p in files if p.name != SHIPPED)


def _key(found: Source) -> str:
    """Hash of everything a structure depends on."""
    if found.file:
        beside = found.file.with_suffix("")
        made_from: Any = _stamps([found.file, *(_made_from(beside) if beside.is_dir() else [])])
    elif found.directory:
        made_from = _stamps(_made_from(found.directory))
    else:
        assert found.row is not None
        made_from = [asdict(found.row), found.row.config, [asdict(c) for c in found.row.components]]
    text = json.dumps([_code(), [_version(name) for name in LIBRARIES], made_from], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _stamps(files: list[Path]) -> list[tuple[str, int, int]]:
    stamps = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            raise ModelError(f"{file} cannot be read; finish the download.") from None
        stamps.append((str(file), status.st_size, status.st_mtime_ns))
    return stamps


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
