"""Long work as a process of its own and of low priority: started, followed line by line, cancelled."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import engine
from engine.core.errors import EngineError, InputError

NICE = 15
LINES_KEPT = 40
STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a job stands.

    Attributes:
        kind: `study`, `fit` or `bench`; "" where there is none.
        running: whether it goes on.
        doing: in words.
        done, total: how far; total 0 while that is not known.
        left_s: seconds left, None while that is not known.
        failed: trials that failed in this run.
        error: one sentence where it ended badly.
        result: what it printed, once it has ended well.
        seconds: since it began, or how long it took.
    """

    kind: str = ""
    running: bool = False
    doing: str = ""
    done: float = 0.0
    total: int = 0
    left_s: float | None = None
    failed: int = 0
    error: str = ""
    result: dict[str, Any] | None = None
    seconds: float = 0.0


@dataclass(eq=False)
class Job:
    """One run of a verb of the command line.

    Attributes:
        kind: the verb.
        model: the model's name, as the page knows it.
        file: the study file it reads or writes; None where it needs none.
        process: the child.
        then: called once it has ended well, before it is said to have ended, whoever looks on.
    """

    kind: str
    model: str
    file: Path | None
    process: subprocess.Popen[str]
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    cancelled: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    failed: int = 0
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))
    output: str = ""
    first: tuple[float, float] | None = None  # when counting began, and at which count
    then: Callable[[], object] | None = None

    def follow(self) -> None:
        """Start the threads that read what it says; they end with it."""
        readers = [threading.Thread(target=target, daemon=True) for target in (self._errors, self._results)]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._wait, args=(readers,), daemon=True).start()

    def _errors(self) -> None:
        for line in self.process.stderr or ():
            found = parsed(line)
            if found is None:
                if line.strip():
                    self.lines.append(line.strip())
                continue
            self.failed += found.get("event") == "failed"
            if self.first is None and found.get("total"):
                self.first = (time.monotonic(), float(found.get("done") or 0))
            self.progress = found

    def _results(self) -> None:
        self.output = (self.process.stdout or open(os.devnull)).read()

    def _wait(self, readers: Sequence[threading.Thread]) -> None:
        self.process.wait()
        for reader in readers:
            reader.join()
        if self.then and self.process.returncode == 0:
            with suppress(EngineError):  # whoever opens what it wrote is told what is wrong with it
                self.then()
        self.ended = time.monotonic()

    def stop(self) -> None:
        """End it: what is finished is on disk, whole. A child that does not listen is killed."""
        self.cancelled = True
        if self.process.poll() is None:
            self.process.terminate()
            threading.Thread(target=self._kill_later, daemon=True).start()

    def _kill_later(self) -> None:
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def standing(self) -> Standing:
        """Where it stands now."""
        now = self.ended or time.monotonic()
        done, total = float(self.progress.get("done") or 0), int(self.progress.get("total") or 0)
        running = self.ended is None
        return Standing(self.kind, running, self._doing(), done, total, self._left(done, total) if running else None,
                        self.failed, "" if running else self._error(), None if running else self._result(),
                        now - self.began)

    def _doing(self) -> str:
        if self.cancelled:
            return "Stopping"
        event = self.progress.get("event", "loading")
        if self.kind == "bench":
            return "Measuring packed kernels" if self.progress else "Loading the model and packing its Linear layers"
        if event == "loading":
            return "Loading the model and quantizing its layers" if self.kind == "study" else "Reading the study"
        if event == "scoring":
            return "Scoring layers and blocks"
        return "Measuring" if self.kind == "study" else "Fitting"

    def _left(self, done: float, total: int) -> float | None:
        left = self.progress.get("left_s")
        if isinstance(left, (int, float)):
            return float(left)
        if self.kind == "study" or self.first is None or done <= self.first[1]:
            return None
        return (time.monotonic() - self.first[0]) / (done - self.first[1]) * (total - done)

    def _error(self) -> str:
        code = self.process.returncode
        if self.cancelled:
            return "Cancelled." if self.kind == "bench" else "Cancelled; what was finished is kept."
        if code == 0:
            return ""
        if code in (2, 130) and self.lines:
            return self.lines[-1]
        last = f" ({self.lines[-1][:200]})" if self.lines else ""
        return f"It ended unexpectedly with code {code}{last}; what was finished is kept. Start it again to go on."

    def _result(self) -> dict[str, Any] | None:
        return parsed(self.output) if self.process.returncode == 0 else None


class Jobs:
    """At most one job at a time: a second would only take the machine from the first, and from the pictures."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.current: Job | None = None
        atexit.register(self.stop)

    def start(self, kind: str, model: str, file: Path | None, arguments: Sequence[str],
              then: Callable[[], object] | None = None) -> Job:
        """Begin `python -m engine KIND ARGUMENTS`; `then` as of `Job`.

        Raises:
            InputError: another job is running.
        """
        with self._lock:
            if self.current is not None and self.current.ended is None:
                of = self.current.file.name if self.current.file else self.current.model
                raise InputError(f"A {self.current.kind} is running already ({of}); let it finish or cancel it.")
            self.current = Job(kind, model, file, spawn([kind, *arguments, "--json", "--progress"]), then=then)
            self.current.follow()
            return self.current

    def stop(self, *kinds: str) -> None:
        """Cancel what is running, if it is of one of these kinds (none named: whatever it is)."""
        if self.current is not None and self.current.ended is None and (not kinds or self.current.kind in kinds):
            self.current.stop()

    def standing(self) -> Standing:
        """Where the current job stands, or the last one ended."""
        return self.current.standing() if self.current is not None else Standing()


def spawn(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """The engine's command line in a process of low priority, in a group of its own within this session (so that its
    priority counts against ours)."""
    root = str(Path(engine.__file__).resolve().parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "engine", *arguments]
    more: dict[str, Any] = {}
    if os.name == "nt":
        more["creationflags"] = subprocess.BELOW_NORMAL_PRIORITY_CLASS  # type: ignore[attr-defined]
    else:
        nice = shutil.which("nice")
        command = [nice, "-n", str(NICE), *command] if nice else command
        more["process_group"] = 0
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, encoding="utf-8", errors="replace",
                            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}, **more)


def parsed(line: str) -> dict[str, Any] | None:
    """A line of JSON as an object; None where it is anything else."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
