"""One standalone HTML page about a study: figures, tables, and what was proved; nothing is fetched when it opens."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.advisor import Advisor
from engine.evidence.charts import (
    CHOSEN_AT,
    blocks_figure,
    contest_figure,
    options_figure,
    path_figure,
    roles_figure,
    trials_figure,
)
from engine.evidence.page import chapter
from engine.evidence.studied import Studied
from engine.study.summary import summary_text

SHOWN_AT = ("uaq-3", "uaq-4")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto;
  font-variant-numeric: tabular-nums }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ccc; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
pre { white-space: pre-wrap; background: #f5f5f5; padding: 1rem }
"""


def report(studied: Studied, presets: Sequence[str], study: Mapping[str, Any], advisor: Advisor | None,
           found: Mapping[str, Any] | None) -> str:
    """The page.

    Args:
        studied: the trials.
        presets: [T] of each.
        study: `summary` of the study file.
        advisor: the predictor fitted to it, if there is one.
        found: the evidence kept beside it, if there is any.
    """
    from plotly.offline import get_plotlyjs

    title = f"Study of {studied.structure.model}"
    parts = [f"<h1>{html.escape(title)}</h1>", f"<pre>{html.escape(summary_text(dict(study)))}</pre>",
             _figure(trials_figure(studied, presets))]
    if advisor is None:
        parts.append("<p>No predictor was fitted to this study yet: python -m engine fit DB.</p>")
    else:
        parts += _advised(advisor)
    if found is not None:
        weights = sum(layer.weights for layer in studied.structure.layers)
        parts += [_figure(contest_figure(found["contest"], weights)), *blocks_of(chapter(found))]
    return ("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">"
            f"<title>{html.escape(title)}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script><body>"
            + "\n".join(parts) + "</body></html>\n")


def _advised(advisor: Advisor) -> Iterator[str]:
    trust = advisor.trust
    held = "" if trust.rank_correlation is None else f"{trust.rank_correlation:.3f} ({trust.note})"
    yield (f"<h2>Predictor</h2><p>In use: {html.escape(str(advisor.predictor.kind))}, fitted to {trust.trials} trials "
           f"of {trust.images} images of {html.escape(trust.study)}; held-out rank correlation "
           f"{html.escape(held)}.</p>")
    rows = [(name, f"{q.spearman:.3f}", "-" if q.spearman_in_bins is None else f"{q.spearman_in_bins:.3f}",
             f"{q.ndcg10:.3f}", f"{q.mae:.3f}") for name, q in advisor.figures.items()]
    yield _table(("", "Spearman", "within 0.1-bit bins", "NDCG@10", "mean error"), rows)
    known = {str(o) for o in advisor.options()}
    for option in (o for o in SHOWN_AT if o in known):
        yield _figure(blocks_figure(advisor, option))
        yield _figure(roles_figure(advisor, option))
    yield _figure(path_figure(advisor))
    for bits in CHOSEN_AT:
        chosen = options_figure(advisor, bits)
        if chosen is not None:
            yield _figure(chosen)


def blocks_of(markdown: str) -> Iterator[str]:
    """HTML of the Markdown our own pages use: headings, tables, paragraphs, bold and code."""
    for block in re.split(r"\n\s*\n", markdown.strip()):
        heading = re.match(r"(#{2,4}) (.*)", block)
        if heading:
            level = len(heading[1])
            yield f"<h{level}>{_inline(heading[2])}</h{level}>"
        elif block.startswith("|"):
            lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
            yield _table([_inline(c) for c in lines[0]], [[_inline(c) for c in line] for line in lines[2:]], raw=True)
        else:
            yield f"<p>{_inline(block)}</p>"


def _inline(text: str) -> str:
    escaped = html.escape(text, quote=False)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", escaped))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, raw: bool = False) -> str:
    say = str if raw else html.escape
    body = "".join("<tr>" + "".join(f"<td>{say(c)}</td>" for c in row) + "</tr>" for row in rows)
    return "<table><tr>" + "".join(f"<th>{say(c)}</th>" for c in head) + f"</tr>{body}</table>"


def _figure(figure: Any) -> str:
    text: str = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
    return text


