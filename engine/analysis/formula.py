"""The target as a formula over metrics (`psnr - 0.1*bits`): own tokenizer and parser, numbers only, no `eval`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.core.errors import InputError

Floats = npt.NDArray[np.float64]
MAX_LENGTH = 400
MAX_DEPTH = 40
BITS = "bits"

_TOKEN = re.compile(r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
                    r"|(?P<name>[A-Za-z_][A-Za-z0-9_.]*(?:\[[^\[\]]{1,80}\])?)|(?P<sign>\*\*|[-+*/(),]))")
FUNCTIONS: dict[str, tuple[int, Callable[..., Floats]]] = {
    "log": (1, np.log), "log10": (1, np.log10), "exp": (1, np.exp), "sqrt": (1, np.sqrt), "abs": (1, np.abs),
    "min": (2, np.minimum), "max": (2, np.maximum),
}
_BINARY: dict[str, Callable[[Floats, Floats], Floats]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "**": np.power,
}


@dataclass(frozen=True, slots=True)
class Term:
    """A node of the syntax tree: a number, a name, or an operation on terms."""

    kind: str
    text: str = ""
    value: float = 0.0
    parts: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Formula:
    """A parsed target, higher = better.

    Attributes:
        text: as written.
        names: the metrics it uses, in order of appearance.
        root: the syntax tree.
    """

    text: str
    names: tuple[str, ...]
    root: Term

    def evaluate(self, columns: Mapping[str, Floats]) -> Floats:
        """The target of every trial.

        Args:
            columns: metric name -> [T]; all of one length.

        Raises:
            InputError: a name has no column.
        """
        unknown = [name for name in self.names if name not in columns]
        if unknown:
            raise InputError(f"The formula names {unknown[0]!r}, which was not measured; there is "
                             f"{', '.join(sorted(columns)) or 'nothing'}.")
        length = len(next(iter(columns.values()))) if columns else 1
        with np.errstate(all="ignore"):
            return np.broadcast_to(_value(self.root, columns), (length,)).astype(np.float64)


@dataclass(frozen=True, slots=True)
class BitsTerm:
    """A formula's term in `bits` alone, 0 at the trials' mean bits; exact for formulas in which bits stand apart.

    Attributes:
        formula: the text.
        means: metric -> mean over the trials (any value serves, since bits stand apart).
        mean_bits: mean stored bits per weight of the trials.
    """

    formula: str
    means: dict[str, float]
    mean_bits: float

    def at(self, bits: Floats) -> Floats:
        """[T] the term at so many stored bits per weight."""
        parsed = parse_formula(self.formula)
        if BITS not in parsed.names:
            return np.zeros_like(bits)
        columns = {name: np.full_like(bits, value) for name, value in self.means.items()}
        middle = parsed.evaluate({**columns, BITS: np.full_like(bits, self.mean_bits)})
        return parsed.evaluate({**columns, BITS: bits}) - middle


def bits_term(formula: Formula, columns: Mapping[str, Floats]) -> BitsTerm | None:
    """The term of a formula over measured columns [T]; None where bits and metrics are entangled (`psnr / bits`)."""
    used = {name: columns[name] for name in formula.names if name != BITS}
    means = {name: float(column.mean()) for name, column in used.items()}
    term = BitsTerm(formula.text, means, float(columns[BITS].mean()))
    if BITS not in formula.names:
        return term
    middle = np.full_like(columns[BITS], term.mean_bits)
    part = formula.evaluate({**used, BITS: columns[BITS]}) - formula.evaluate({**used, BITS: middle})
    scale = float(np.abs(part).max()) or 1.0
    apart = np.allclose(part, term.at(columns[BITS]), atol=1e-9 * scale, rtol=1e-6)
    return term if apart else None


def parse_formula(text: str) -> Formula:
    """Numbers, metric names (brackets allowed: `frechet[emoji-clip]`), + - * / **, parentheses and `FUNCTIONS`.

    Raises:
        InputError: anything else, in one sentence that shows where.
    """
    if len(text) > MAX_LENGTH:
        raise InputError(f"The formula has {len(text)} characters; at most {MAX_LENGTH} are read.")
    reader = _Reader(list(_tokens(text)), text)
    root = reader.sum(0)
    if reader.kind != "end":
        raise InputError(f"The formula {text!r} goes wrong at {reader.token!r}; write something like psnr - 0.1*bits.")
    return Formula(text, tuple(dict.fromkeys(_names(root))), root)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if not match or not match.lastgroup:
            raise InputError(f"The formula {text!r} has an unknown sign at {text[at:].strip()[:8]!r}; use numbers, "
                             f"metric names, + - * / ** and parentheses.")
        yield match.lastgroup, match[match.lastgroup]
        at = match.end()
    yield "end", "its end"


class _Reader:
    """Recursive descent; every level counts depth, so nesting cannot exhaust the stack."""

    def __init__(self, tokens: Sequence[tuple[str, str]], text: str) -> None:
        self._tokens, self._at, self._text = tokens, 0, text

    @property
    def kind(self) -> str:
        return self._tokens[self._at][0]

    @property
    def token(self) -> str:
        return self._tokens[self._at][1]

    def _take(self, *wanted: str) -> str:
        """The current token if it is one of these, else ""."""
        if self.kind == "sign" and self.token in wanted:
            self._at += 1
            return self._tokens[self._at - 1][1]
        return ""

    def _need(self, sign: str) -> None:
        if not self._take(sign):
            raise InputError(f"The formula {self._text!r} lacks {sign!r} before {self.token!r}.")

    def sum(self, depth: int) -> Term:
        left = self._product(depth)
        while sign := self._take("+", "-"):
            left = Term("binary", sign, parts=(left, self._product(depth)))
        return left

    def _product(self, depth: int) -> Term:
        left = self._signed(depth)
        while sign := self._take("*", "/"):
            left = Term("binary", sign, parts=(left, self._signed(depth)))
        return left

    def _signed(self, depth: int) -> Term:
        if depth > MAX_DEPTH:
            raise InputError(f"The formula is nested deeper than {MAX_DEPTH} levels; simplify it.")
        if sign := self._take("+", "-"):
            inner = self._signed(depth + 1)
            return Term("binary", sign, parts=(Term("number"), inner))
        base = self._atom(depth)
        return Term("binary", "**", parts=(base, self._signed(depth + 1))) if self._take("**") else base

    def _atom(self, depth: int) -> Term:
        kind, token = self.kind, self.token
        if kind == "number":
            self._at += 1
            return Term("number", value=float(token))
        if kind == "name":
            self._at += 1
            return self._call(token, depth) if self._take("(") else Term("name", token)
        if self._take("("):
            inner = self.sum(depth + 1)
            self._need(")")
            return inner
        raise InputError(f"The formula {self._text!r} lacks a number or a metric before {token!r}.")

    def _call(self, name: str, depth: int) -> Term:
        if name not in FUNCTIONS:
            raise InputError(f"The formula calls {name!r}; known functions are {', '.join(FUNCTIONS)}.")
        parts = [self.sum(depth + 1)]
        while self._take(","):
            parts.append(self.sum(depth + 1))
        self._need(")")
        if len(parts) != FUNCTIONS[name][0]:
            raise InputError(f"The formula gives {name} {len(parts)} arguments; it takes {FUNCTIONS[name][0]}.")
        return Term("call", name, parts=tuple(parts))


def _names(term: Term) -> Iterator[str]:
    if term.kind == "name":
        yield term.text
    for part in term.parts:
        yield from _names(part)


def _value(term: Term, columns: Mapping[str, Floats]) -> Floats:
    if term.kind == "number":
        return np.float64(term.value)  # type: ignore[return-value]
    if term.kind == "name":
        return np.asarray(columns[term.text], np.float64)
    parts = [_value(part, columns) for part in term.parts]
    return (_BINARY[term.text] if term.kind == "binary" else FUNCTIONS[term.text][1])(*parts)
