"""`study` on the command line: its four forms, JSON, and one sentence for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli.main import main
from engine.models.tiny import TINY


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "tiny"
    TINY["dit"]().save_pretrained(path)
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict:
    assert main(["study", *words]) == code
    out, err = capsys.readouterr()
    return json.loads(out) if code == 0 else {"error": err}


def test_measure_show_merge_export(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = [str(tmp_path / f"{i}.sqlite") for i in range(2)]
    for i, shard in enumerate(shards):
        done = said(capsys, model, "--db", shard, "--trials", "6", "--images", "4", "--steps", "2", "--threads", "1",
                    "--shard", f"{i}/2", "--json")
        assert (done["measured_now"], done["trials"], done["images"], done["failed"]) == (3, 3, 4, 0)
    whole = str(tmp_path / "all.sqlite")
    assert said(capsys, "merge", whole, *shards, "--json") == {"added": 6, "known": 0, "trials": 6}
    assert said(capsys, "merge", "--json", "--db", whole, *shards)["known"] == 6
    shown = said(capsys, "show", "--json", whole)
    assert shown["trials"] == 6 and shown["images"] == 4 and shown["predictor"] is None
    label = shown["label_reliability"]
    assert label["splits"] == 20 and label["corrected"] is False and -1 <= label["median"] <= 1
    assert said(capsys, "show", "--db", whole, "--metric", "psnr", "--json")["label_reliability"]["metric"] == "psnr"
    assert said(capsys, "export", whole, "--out", str(tmp_path / "t.csv"), "--json")["rows"] == 6
    assert main(["study", "show", whole]) == 0
    assert "6 trials x 4 images" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "part"), [
    (["MODEL"], "needs a model and a file"), (["MODEL", "--db", "DIR/s", "--trials", "0"], "--trials must be"),
    (["MODEL", "--db", "DIR/s", "--shard", "2/2"], "--shard 2/2"), (["MODEL", "--db", "DIR/s", "--shard", "x"], "I/N"),
    (["MODEL", "--db", "DIR/no/s"], "There is no folder"), (["MODEL", "--db", "DIR/s", "--images", "0"], "--images"),
    (["MODEL", "--db", "DIR/s", "--preset", "odd"], "Unknown preset"),
    (["MODEL", "--db", "DIR/s", "--workers", "0"], "--workers"),
    (["DIR/absent", "--db", "DIR/s"], "absent"), (["show", "DIR/no"], "no study file"), (["show"], "one study file"),
    (["merge", "DIR/a"], "Name the target"), (["export", "DIR/no"], "Name the table"),
    (["MODEL", "--db", "DIR/s", "--ray", "auto"], "ray"),
])
def test_one_sentence(words: list[str], part: str, model: str, tmp_path: Path,
                      capsys: pytest.CaptureFixture[str]) -> None:
    spelled = [w.replace("MODEL", model).replace("DIR", str(tmp_path)) for w in words]
    error = said(capsys, *spelled, code=2)["error"].strip()
    assert part in error and "\n" not in error and "Traceback" not in error
