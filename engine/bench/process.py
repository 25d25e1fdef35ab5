"""Run one command in a process of its own and say what it took: seconds, and memory at its peak.

Two figures of memory: everything resident, in which the pages of mapped files count although the system may drop them
at any time, and what the process alone holds (anonymous memory), sampled while it runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.core.errors import EngineError

ROOT = Path(__file__).resolve().parents[2]
SAMPLE_S = 0.05
LONGEST_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Ran:
    """One finished process.

    Attributes:
        output: its standard output.
        seconds: from start to end.
        processor_seconds: of all its threads.
        peak_bytes: resident memory at its peak, mapped files included, as last sampled.
        own_bytes: anonymous memory at its peak, as sampled; 0 where the system does not say.
    """

    output: str
    seconds: float
    processor_seconds: float
    peak_bytes: int
    own_bytes: int

    @property
    def record(self) -> Any:
        """The output as JSON."""
        return json.loads(self.output)


def engine_command(*words: str) -> list[str]:
    """The command line of `python -m engine`."""
    return [sys.executable, "-m", "engine", *words]


def run_process(command: Sequence[str], *, environment: dict[str, str] | None = None,
                longest: float = LONGEST_S) -> Ran:
    """Run to the end.

    Args:
        command: program and arguments, run in the repository.
        environment: variables changed for it.
        longest: seconds after which it is ended.

    Raises:
        EngineError: it failed; its last words.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as words:
        start = time.perf_counter()
        process = subprocess.Popen(list(command), cwd=ROOT, stdout=output, stderr=words,
                                   env={**os.environ, **(environment or {})})
        own = peak = 0
        try:
            while True:
                finished, status, usage = os.wait4(process.pid, os.WNOHANG)
                if finished:
                    break
                memory = memory_of(process.pid)
                own, peak = max(own, memory.get("RssAnon", 0)), max(peak, memory.get("VmHWM", 0))
                if time.perf_counter() - start > longest:
                    process.kill()
                time.sleep(SAMPLE_S)
        except BaseException:
            process.kill()
            os.waitpid(process.pid, 0)
            process.returncode = -1
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        output.seek(0)
        words.seek(0)
        if process.returncode:
            said = words.read().strip().splitlines()
            raise EngineError(f"{' '.join(command[1:4])} failed with code {process.returncode}: "
                              f"{said[-1][:300] if said else 'it said nothing'}")
        return Ran(output.read(), seconds, usage.ru_utime + usage.ru_stime, peak or usage.ru_maxrss * 1024, own)


def peak_memory() -> int:
    """Resident memory of this process at its peak, in bytes, mapped files included.

    The resource usage that the system keeps would count what a parent held before this program began.
    """
    found = memory_of("self").get("VmHWM", 0)
    if found:
        return found
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_of(process: int | str) -> dict[str, int]:
    """What Linux says of a process's memory, in bytes by its own names; empty on other systems or after its end."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        pairs = [line.split() for line in lines if line.endswith(" kB")]
        return {words[0].rstrip(":"): int(words[1]) * 1024 for words in pairs}
    except (OSError, ValueError, IndexError):
        return {}
