"""What one viewer sees and has done, as an immutable record with pure transitions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from engine.core.option import Option, parse_option
from explorer.choices import choices_of, describe_change, replaced

MAX_HISTORY = 200
MAX_COUNT = 8  # seeds per prompt


@dataclass(frozen=True, slots=True)
class Settings:
    """What is generated: the same for the full-precision and the quantized picture."""

    prompt: str = ""
    negative: str = ""
    label: int = 0
    seed: int = 0
    steps: int = 20
    guidance: float = 3.0
    scheduler: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Version:
    """One entry of the edit history: what was changed and the recipe after it, inputs and weight sets included."""

    title: str
    options: Mapping[str, Option]


@dataclass(frozen=True, slots=True)
class ViewState:
    """Everything that belongs to one viewer.

    Attributes:
        model: name of the open model.
        history: versions of the recipe, oldest first; `at` is the current one.
        selected, protected, expanded: block ids.
        overlay, ramp: what colours the graph, and with which colours.
        settings: see `Settings`.
        pins: name ("A", "B") -> pinned options.
        refused: name of a recipe file of another model; loading it once more takes it over.
        edit: how many of the page's own changes are in this state; the page counts them.
    """

    model: str
    history: tuple[Version, ...]
    at: int = 0
    selected: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    expanded: tuple[str, ...] = ()
    overlay: str = ""
    ramp: str = "ember"
    settings: Settings = field(default_factory=Settings)
    pins: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)
    refused: str = ""
    edit: int = 0

    @property
    def options(self) -> Mapping[str, Option]:
        """The current recipe's options."""
        return self.history[self.at].options

    @property
    def can_undo(self) -> bool:
        """Whether there is an older version."""
        return self.at > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is a newer version."""
        return self.at + 1 < len(self.history)


def fresh(model: str, options: Mapping[str, Option], overlay: str, settings: Settings) -> ViewState:
    """The state of a model just opened."""
    return ViewState(model, (Version("opened", choices_of(options)),), overlay=overlay, settings=settings)


def edited(state: ViewState, options: Mapping[str, Option], title: str = "") -> ViewState:
    """A new version on top of the current one; versions that were undone are dropped. No change, no version.

    A plain mapping of options leaves the inputs as they are; see `explorer.choices.replaced`.
    """
    wanted = replaced(state.options, options)
    if wanted == choices_of(state.options):
        return state
    title = title or describe_change(state.options, wanted)
    history = (*state.history[: state.at + 1], Version(title, wanted))[-MAX_HISTORY:]
    return replace(state, history=history, at=len(history) - 1)


def travelled(state: ViewState, steps: int) -> ViewState:
    """Undo (negative) or redo (positive), stopping at either end."""
    return replace(state, at=max(0, min(len(state.history) - 1, state.at + steps)))


def jumped(state: ViewState, at: int) -> ViewState:
    """Go to one version of the history."""
    return travelled(state, at - state.at)


def pinned(state: ViewState, name: str) -> ViewState:
    """Keep the current recipe under a name, to be compared with others."""
    return replace(state, pins={**state.pins, name: choices_of(state.options)})


def options_from_browser(raw: object, known: Iterable[str]) -> dict[str, Option]:
    """The options a browser sent, checked: every known layer once, every option parsed.

    Raises:
        ValueError: not a mapping of exactly the known layers.
        OptionError: an option that does not exist.
    """
    names = set(known)
    if not isinstance(raw, dict) or set(raw) != names:
        raise ValueError("the page sent options of another model; reload it")
    return {name: parse_option(str(text)) for name, text in raw.items()}
