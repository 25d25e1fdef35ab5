"""Everything that is proved about one study, stage by stage; each keeps what it finished, so a killed run goes on."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.analysis.fitting import offered
from engine.analysis.library import predictor_stem
from engine.analysis.predictor import Predictor
from engine.analysis.predictor_files import load_predictor, save_predictor
from engine.analysis.training import Epoch
from engine.analysis.trials import subset
from engine.core.errors import StudyError
from engine.core.files import read_json, write_json
from engine.core.jsonrecord import to_json
from engine.evidence.agreement import agreements
from engine.evidence.cost import cost_of, workers
from engine.evidence.images import contest, signal, switched
from engine.evidence.labels import target_reliability
from engine.evidence.learned import learn, overlays
from engine.evidence.learning import learning_curve
from engine.evidence.scale import Found, Places, Scale, Stage
from engine.evidence.studied import DEFAULT_FORMULA, FIT_SECONDS, Studied, read_studied
from engine.live.model import open_model
from engine.providers.files import find_scores, save_scores, scores_path
from engine.providers.progress import Progress
from engine.study.summary import summary

VERSION = 2
EPOCHS_SHOWN = 10


def prove(db: Path, places: Places, scale: Scale | None = None, *, formula: str = DEFAULT_FORMULA, source: str = "",
          device: str = "cpu", trials: int | None = None) -> Iterator[Progress | Found]:
    """Progress records, then the evidence as plain values, which is also written to `kept`.

    Args:
        db: the study file.
        places: where results go.
        scale: how much is measured.
        formula: the target of the predictor.
        source: where the study's model lies; "" = the name it was measured under.
        device: of the model.
        trials: only the first so many of the study; None = all that are there.

    Raises:
        StudyError, InputError: the study, its model or a kept file cannot be used; one sentence.
    """
    scale = scale or Scale()
    studied = read_studied(db, formula, model=source, trials=trials)
    found: Found = {"version": VERSION, "model": studied.structure.model, "identity": studied.structure.identity,
                    "study": summary(db, first=trials), "formula": formula, "digest": studied.digest,
                    "scale": to_json(scale)}
    try:
        found["reliability"] = to_json(target_reliability(db, studied))
    except StudyError as problem:  # the formula's metrics have no values per image: the page says so
        found["reliability"] = {"note": str(problem)}
    predictor, scores = yield from _learned(studied, places, scale)
    found |= {"kind": str(predictor.kind), "report": to_json(predictor.report), "share": predictor.share,
              "partner": str(predictor.partner), "support": int((predictor.support > 0).sum()),
              FIT_SECONDS: predictor.about.get(FIT_SECONDS, "")}
    found["learning"] = to_json((yield from _learning(studied, places, scale)))
    found["cost"] = cost_of(studied)
    name = source or studied.protocol.model
    if scale.timed:
        found["cost"] |= yield from _timed(name, studied, places, scale)
    model = open_model(name, device=device)
    try:
        measured = yield from signal(model, studied, places, scale)
        known = {**find_scores(studied.structure), **measured}
        found["agreement"] = to_json(agreements(studied.structure, scores, known))
        found["switching"] = to_json((yield from switched(model, studied, places, scale, scores, known)))
        found["contest"] = yield from contest(model, studied, places, scale, predictor, known)
    finally:
        model.close()
    write_json(places.file(studied, "evidence.json"), found)
    yield found


def _learned(studied: Studied, places: Places, scale: Scale) -> Stage:
    """The predictor and its overlays, fitted unless those that lie there are of these very trials."""
    stem = predictor_stem(studied.structure, places.assets)
    known = _loaded(stem, studied, scale)
    folder = places.assets / "scores"
    if known is not None:
        lying = find_scores(studied.structure, [folder]).values()
        own = sorted((s for s in lying if s.about.get("digest") == studied.digest), key=lambda s: s.provider)
        if own:
            return known, own
    begin = time.perf_counter()
    predictor = yield from _fitted(studied, scale)
    seconds = f"{time.perf_counter() - begin:.0f}"
    predictor = replace(predictor, about={**predictor.about, FIT_SECONDS: seconds})
    yield Progress("overlays", 0, 0)
    own = sorted(overlays(predictor, studied.table.picks), key=lambda s: s.provider)  # as they are found again
    for scores in own:
        save_scores(scores_path(studied.structure, scores.provider, folder), scores)
    save_predictor(stem, predictor)
    return predictor, own


def _fitted(studied: Studied, scale: Scale) -> Generator[Progress, None, Predictor]:
    for number, step in enumerate(learn(studied, scale.training, scale.kinds)):
        if isinstance(step, Predictor):
            return step
        if not isinstance(step, Epoch) or step.number % EPOCHS_SHOWN == 0:
            yield Progress(f"fitting, step {number + 1}", 0, 0)
    raise AssertionError("a fit ends with its predictor")


def _loaded(stem: Path, studied: Studied, scale: Scale) -> Predictor | None:
    """The predictor that lies there, if it was fitted to these very trials in this way."""
    try:
        predictor = load_predictor(stem, studied.structure)
    except StudyError:
        return None
    kinds = {str(kind) for kind in offered(studied.table, scale.kinds)}
    as_asked = kinds <= set(predictor.members) and replace(scale.training, device="cpu") == predictor.training
    return predictor if as_asked and predictor.about.get("digest") == studied.digest else None


def _learning(studied: Studied, places: Places, scale: Scale) -> Stage:
    """The learning curve over the trials drawn at random."""
    if not scale.sizes:
        return {}
    table = subset(studied.table, np.flatnonzero(~studied.near))
    kept = places.file(studied, f"learning-{studied.digest}.jsonl")
    return (yield from learning_curve(table, kept, {"digest": studied.digest}, scale.training, scale.sizes,
                                      scale.kinds))


def _timed(name: str, studied: Studied, places: Places, scale: Scale) -> Stage:
    path = places.file(studied, "workers.json")
    kept: Found = read_json(path, StudyError) if path.is_file() else {}
    if kept.get("trials") == scale.timed:
        return kept
    answer: Found = {}
    for step in workers(name, scale.timed):
        if isinstance(step, Progress):
            yield step
        else:
            answer = step
    write_json(path, answer)
    return answer
