"""A study as a table for other tools: one row per trial, as CSV or Parquet."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from engine.core.errors import StudyError
from engine.core.files import write_atomic
from engine.study.storage import Study

if TYPE_CHECKING:
    import pandas

SUFFIXES = (".csv", ".parquet")


def table(study: Study) -> pandas.DataFrame:
    """One row per done trial: where it came from, its size, every metric, and its option per layer (`layer:` ...)."""
    import pandas

    environments = {number: str(e) for number, e in study.environments().items()}
    columns = {name: study.values(name) for name in study.metric_names()}
    rows = []
    for trial in study.trials():
        rows.append({
            "preset": trial.preset, "seed": trial.seed, "number": trial.number, "granularity": trial.granularity,
            "bits_per_weight": trial.bits, "bytes": trial.bytes, "duration_s": trial.duration_s,
            "environment": environments[trial.environment],
            **{name: values.get(trial.id) for name, values in columns.items()},
            **{f"layer:{name}": str(option) for name, option in trial.options.items()},
        })
    return pandas.DataFrame(rows)


def export(study: Study, path: str | Path) -> int:
    """Write the table, by the file's ending; returns the number of rows.

    Raises:
        StudyError: the ending is neither .csv nor .parquet, or no trial is done.
        EngineError: the place is not writable.
    """
    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise StudyError(f"Cannot export to {file.name}; the name must end in {' or '.join(SUFFIXES)}.")
    frame = table(study)
    if frame.empty:
        raise StudyError(f"{study.path.name} has no finished trial yet; there is nothing to export.")
    if file.suffix == ".csv":
        write_atomic(file, frame.to_csv(index=False))
    else:
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        write_atomic(file, buffer.getvalue())
    return len(frame)
