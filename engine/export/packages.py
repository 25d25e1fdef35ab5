"""Optional packages: whether they are here, and the one sentence that says what is missing."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass

from engine.core.errors import EngineError


@dataclass(frozen=True, slots=True)
class Package:
    """A package an export needs to be written and loaded, with the version it was tested with."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


DIFFUSERS = Package("diffusers", "0.42.1")
SAFETENSORS = Package("safetensors", "0.8.0")
SDNQ = Package("sdnq", "0.2.8")
TORCHAO = Package("torchao", "0.18.0")
BITSANDBYTES = Package("bitsandbytes", "0.50.2")


def missing(packages: Iterable[Package]) -> list[Package]:
    """Those that are not installed, or are older than the tested version."""
    return [p for p in packages if _numbers(_installed(p.name)) < _numbers(p.version)]


def require(packages: Iterable[Package], purpose: str) -> None:
    """Refuse to go on without them.

    Raises:
        EngineError: one is missing or too old; names it, its version and how to get it.
    """
    absent = missing(packages)
    if absent:
        found = [f"{p.name} {_installed(p.name)}" for p in absent if _installed(p.name)]
        here = f" (installed: {', '.join(found)})" if found else ""
        wanted = " and ".join(f"{p.name} {p.version}" for p in absent)
        raise EngineError(f"{purpose} needs {wanted}{here}; install it with: pip install "
                          f"{' '.join(map(str, absent))}")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, comparable; () for none."""
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = part[:len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
