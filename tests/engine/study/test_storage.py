"""The study file: round trip, resuming, and every way a file can be unusable, one sentence each."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dump import CHILD_PATH
from fake_bench import environment, protocol, structure

from engine.core.errors import StudyError
from engine.core.option import FP16, Option
from engine.study.export import export
from engine.study.protocol import trial_key
from engine.study.sampling import PRESETS, Draw, draw
from engine.study.storage import open_study, read_study
from engine.study.trial import Measured, Measurement, State

DRAWS = [draw(structure(), PRESETS["paper-6"], 0, i) for i in range(4)]
VALUES = np.arange(8, dtype=np.float32) / 3
MEASURED = Measurement((Measured("mse", float(VALUES.mean()), 8, "", False, VALUES), Measured("kd", 0.5, 8, "", False)),
                       1.5, 1.25)


def made(path: Path, done: int = 2) -> Path:
    """A study of four trials, the first `done` measured."""
    with open_study(path, protocol()) as study:
        todo = study.plan(DRAWS, structure(), study.admit(environment()))
        for trial in todo[:done]:
            study.start(trial.id)
            study.finish(trial.id, MEASURED)
    return path


def test_round_trip(tmp_path: Path) -> None:
    path = made(tmp_path / "s.sqlite")
    with read_study(path) as study:
        assert study.protocol == protocol() and list(study.environments().values()) == [environment()]
        assert study.counts() == {State.WAITING: 2, State.RUNNING: 0, State.DONE: 2, State.FAILED: 0}
        trial = study.trials()[1]
        assert trial.options == DRAWS[1].options and (trial.number, trial.attempts, trial.state) == (1, 1, State.DONE)
        assert (trial.duration_s, trial.generating_s) == (1.5, 1.25) and 3 < trial.bits < 6 and trial.bytes > 0
        ids, table = study.per_image("mse")
        assert ids == [1, 2] and table.dtype == np.float32 and (table == VALUES).all()
        assert study.values("kd") == {1: 0.5, 2: 0.5} and study.metric_names() == ["kd", "mse"]
        metrics = study.metrics(1)
        assert metrics["kd"].per_image is None and metrics["mse"].n == 8 and not metrics["mse"].higher_is_better
        with pytest.raises(StudyError, match="per image"):
            study.per_image("kd")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.sqlite"]  # no log and no lock left behind


def test_recipes_and_keys_agree_when_what_waits_is_drawn_anew(tmp_path: Path) -> None:
    path = made(tmp_path / "s.sqlite", done=1)
    # The three that wait are dealt anew: two change places, one becomes what is measured already.
    anew = [DRAWS[0], *(replace(d, number=n) for d, n in ((DRAWS[2], 1), (DRAWS[1], 2), (DRAWS[0], 3)))]
    with open_study(path, protocol()) as study:
        todo = study.plan(anew, structure(), 1)
        assert [t.options for t in todo] == [DRAWS[2].options, DRAWS[1].options]
        assert study.counts()[State.DONE] == 1 and study.counts()[State.WAITING] == 2
        for trial in study.trials(None):
            assert trial.key == trial_key(protocol(), environment(), trial.options)
        assert study.plan(anew, structure(), 1) == todo


INSIDE = """
import sys
from pathlib import Path
from engine.study.schema import writer_lock
file, inside = Path(sys.argv[1]), Path(sys.argv[1] + ".inside")
for _ in range(40):
    with writer_lock(file, wait_s=60):
        inside.touch(exist_ok=False)  # somebody else is in: this fails
        inside.unlink()
"""


def test_those_who_wait_for_a_lock_take_turns(tmp_path: Path) -> None:
    """Whoever ends removes the lock's file, which others have open and wait for."""
    command = [sys.executable, "-c", INSIDE, str(tmp_path / "store")]
    env = {**os.environ, "PYTHONPATH": CHILD_PATH}
    running = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ended = [process.communicate(timeout=100)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, "\n".join(ended)
    assert not list(tmp_path.iterdir())


def test_untouched_layers_come_back_as_fp16(tmp_path: Path) -> None:
    some = Draw("hand-made", 0, 0, "layer", {"b0.l0": Option("uaq", 4)})
    with open_study(tmp_path / "s.sqlite", protocol()) as study:
        trial, = study.plan([some], structure(), study.admit(environment()))
        assert trial.options["b0.l0"] == Option("uaq", 4) and trial.options["b3.l11"] == FP16
        assert study.plan([some], structure(), 1) == [trial]


def test_planning_again_resumes_and_extends(tmp_path: Path) -> None:
    path = made(tmp_path / "s.sqlite")
    more = [*DRAWS, draw(structure(), PRESETS["paper-6"], 0, 4)]
    with open_study(path, protocol()) as study:
        assert [t.number for t in study.plan(more, structure(), study.admit(environment()))] == [2, 3, 4]
        assert [t.id for t in study.trials(None)] == [1, 2, 3, 4, 5]


def test_failed_trials_wait_until_asked_for(tmp_path: Path) -> None:
    path = made(tmp_path / "s.sqlite", done=1)
    with open_study(path, protocol()) as study:
        number = study.admit(environment())
        study.start(2)
        study.fail(2, "ValueError: broken")
        assert [t.id for t in study.plan(DRAWS, structure(), number)] == [3, 4]
        failed, = study.trials(State.FAILED)
        assert (failed.error, failed.attempts) == ("ValueError: broken", 1)
        assert [t.id for t in study.plan(DRAWS, structure(), number, retry_failed=True)] == [2, 3, 4]
        study.start(2)
        study.finish(2, MEASURED)
        assert study.trials()[1].attempts == 2 and not study.trials()[1].error


def test_a_finished_trial_is_never_rewritten_by_starting(tmp_path: Path) -> None:
    path = made(tmp_path / "s.sqlite")
    with open_study(path, protocol()) as study:
        study.start(1)
        assert study.trials()[0].attempts == 1 and study.counts()[State.DONE] == 2


def test_nan_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "s.sqlite", done=0)
    with open_study(path, protocol()) as study, pytest.raises(StudyError, match="NaN"):
        study.finish(1, Measurement((Measured("mse", float("nan"), 8, "", False),), 1, 1))


def test_another_environment_needs_mixed(tmp_path: Path) -> None:
    path = made(tmp_path / "s.sqlite")
    other = environment(threads=2)
    with open_study(path, protocol()) as study:
        with pytest.raises(StudyError, match="threads 2 and 1"):
            study.admit(other)
        number = study.admit(other, mixed=True)
        assert [t.environment for t in study.plan(DRAWS, structure(), number)] == [2, 2]


def test_two_draws_of_one_recipe_go_on_elsewhere(tmp_path: Path) -> None:
    twins = [DRAWS[0], replace(DRAWS[0], preset="wide"), DRAWS[1]]
    with open_study(tmp_path / "s.sqlite", protocol()) as study:
        assert len(study.plan(twins, structure(), study.admit(environment()))) == 2
        number = study.admit(environment(threads=2), mixed=True)
        for _ in range(2):
            todo = study.plan(twins, structure(), number)
            assert [t.options for t in todo] == [DRAWS[0].options, DRAWS[1].options]
            assert {t.environment for t in todo} == {number}


@pytest.mark.parametrize(("changes", "words"), [
    ({"identity": "e" * 64}, "another model"), ({"steps": 9}, "steps: '9' here, '2' there"),
    ({"seeds": (1, 2)}, "images: '2' here, '8' there"), ({"engine": "9.9"}, "engine"),
    ({"prompts": ("z",) * 8}, "prompts: others"),
])
def test_another_model_or_protocol(tmp_path: Path, changes: dict, words: str) -> None:
    path = made(tmp_path / "s.sqlite")
    with pytest.raises(StudyError, match=words), open_study(path, protocol(**changes)):
        pass
    with open_study(path, protocol(model="the same by another name")):
        pass


def _garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)


def _truncated(path: Path) -> None:
    whole = made(path).read_bytes()
    path.write_bytes(whole[:len(whole) // 2])


def _foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (x)")
    connection.commit()
    connection.close()


def _newer(path: Path) -> None:
    connection = sqlite3.connect(made(path))
    connection.execute("PRAGMA user_version=99")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(("spoil", "words"), [
    (_garbage, "no SQLite file"), (_truncated, "damaged or cut short"), (_foreign, "another program"),
    (_newer, "version 99"),
])
def test_unusable_files(tmp_path: Path, spoil, words: str) -> None:
    path = tmp_path / "s.sqlite"
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(StudyError, match=words), read_study(path):
        pass
    with pytest.raises(StudyError, match=words), open_study(path, protocol()):
        pass
    assert path.read_bytes() == before


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="There is no study file"), read_study(tmp_path / "s.sqlite"):
        pass
    with pytest.raises(StudyError, match="There is no folder"), open_study(tmp_path / "a" / "s.sqlite", protocol()):
        pass
    (tmp_path / "empty").touch()
    with pytest.raises(StudyError, match="empty"), read_study(tmp_path / "empty"):
        pass


def test_one_writer_any_readers(tmp_path: Path) -> None:
    path = made(tmp_path / "s.sqlite")
    with open_study(path, protocol()) as study:
        with pytest.raises(StudyError, match="being written by another process"), open_study(path, protocol()):
            pass
        study.finish(3, MEASURED)
        with read_study(path) as reader:
            assert reader.counts()[State.DONE] == 3
    with open_study(path, protocol()):
        pass


def test_locked_by_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.study.schema.WAIT_S", 0.05)
    path = made(tmp_path / "s.sqlite")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StudyError, match="used by another process"), open_study(path, protocol()):
        pass
    other.close()


def test_a_full_disk_keeps_what_is_finished(tmp_path: Path) -> None:
    path = made(tmp_path / "s.sqlite")
    large = Measurement((Measured("mse", 1.0, 8, "", False, np.zeros(100_000, np.float32)),), 1, 1)
    with open_study(path, protocol()) as study:
        pages = study.connection.execute("PRAGMA page_count").fetchone()[0]
        study.connection.execute(f"PRAGMA max_page_count={pages + 1}")
        with pytest.raises(StudyError, match=r"disk of .* is full"):
            study.finish(3, large)
    with read_study(path) as study:
        assert study.counts()[State.DONE] == 2 and study.per_image("mse")[1].shape == (2, 8)


def test_predictor_runs_are_kept(tmp_path: Path) -> None:
    path = made(tmp_path / "s.sqlite")
    with open_study(path, protocol()) as study:
        number = study.record_predictor("gnn", {"folds": 5}, {"spearman": 0.9}, b"weights")
        assert study.predictors() == [{"id": number, "name": "gnn", "settings": {"folds": 5},
                                       "figures": {"spearman": 0.9}}]
        assert study.predictor_weights(number) == b"weights"


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_export(tmp_path: Path, name: str) -> None:
    import pandas

    with read_study(made(tmp_path / "s.sqlite")) as study:
        assert export(study, tmp_path / name) == 2
        with pytest.raises(StudyError, match=r"\.csv or \.parquet"):
            export(study, tmp_path / "t.xls")
    frame = pandas.read_csv(tmp_path / name) if name.endswith("csv") else pandas.read_parquet(tmp_path / name)
    assert list(frame["kd"]) == [0.5, 0.5] and frame["layer:b0.l0"][0] == str(DRAWS[0].options["b0.l0"])


@pytest.mark.parametrize(("change", "words"), [
    ("DELETE FROM study", "does not say what it measured"),
    ("UPDATE study SET protocol = '{\"model\": \"fake\"}'", "missing key 'identity'"),
    ("UPDATE study SET protocol = '{'", "what it measured"),
    ("UPDATE study SET protocol = json_set(protocol, '$.prompts', json('[\"a\"]'))", "1 prompts for 8 images"),
    ("UPDATE metric SET per_image = x'0102030405' WHERE trial = 2", "trial 2 holds 5 bytes of mse per image, not 32"),
    ("UPDATE metric SET per_image = x'01020304' WHERE trial = 1 AND name = 'mse'", "trial 1 holds 4 bytes of mse"),
    ("UPDATE metric SET per_image = 'text' WHERE trial = 1 AND name = 'mse'", "trial 1 holds 'text' of mse"),
    ("UPDATE metric SET value = 'text' WHERE trial = 1 AND name = 'mse'", "trial 1 holds 'text' as mse"),
    ("UPDATE metric SET value = 9e999 WHERE trial = 1 AND name = 'mse'", "trial 1 holds inf as mse"),
    ("UPDATE environment SET content = '{}'", "environment 1: .*missing key 'device'"),
    ("UPDATE environment SET content = x'ff'", "environment 1"),
    ("DELETE FROM environment", "environment that is not described"),
    ("UPDATE trial SET bits = 'text' WHERE id = 2", "trial 2 holds 'text' as bits"),
    ("UPDATE trial SET duration_s = x'00' WHERE id = 2", r"trial 2 holds b'\\x00' as duration_s"),
    ("UPDATE trial SET recipe = 'uaq-3' WHERE id = 2", "1 options for 12 layers"),
    ("UPDATE trial SET recipe = replace(recipe, '-', '+') WHERE id = 2", "trial 2: "),
    ("PRAGMA ignore_check_constraints = 1; UPDATE trial SET state = 'odd' WHERE id = 2", "odd"),
    ("UPDATE predictor SET figures = '{'", "figures of predictor 1"),
    ("UPDATE predictor SET figures = '[1]'", "figures of predictor 1: .*instead of an object"),
    ("UPDATE predictor SET settings = x'00'", "settings of predictor 1"),
])
def test_damaged_contents_are_one_sentence(tmp_path: Path, change: str, words: str) -> None:
    path = made(tmp_path / "s.sqlite")
    with open_study(path, protocol()) as study:
        study.record_predictor("gnn", {}, {})
    connection = sqlite3.connect(path)
    connection.executescript(change)
    connection.close()
    with pytest.raises(StudyError, match=words) as caught, read_study(path) as study:
        study.trials(None)
        study.metrics(1)
        study.values("mse")
        study.per_image("mse")
        study.predictors()
    said = str(caught.value)
    assert said.startswith("s.sqlite is damaged (") and said.endswith("start again under another name.")
