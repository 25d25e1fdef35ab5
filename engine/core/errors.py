"""The errors a user or a file can cause: one clear sentence each (what came, what was expected, what to do)."""

from __future__ import annotations


class EngineError(Exception):
    """Root of every error that is shown to the user as one sentence."""


class ModelError(EngineError):
    """A path, checkpoint or pipeline that cannot be opened as an image-generating diffusion model."""


class RecipeError(EngineError):
    """A recipe that does not fit: unknown layers or options, wrong identity, malformed file."""


class OtherModelError(RecipeError):
    """A recipe of another model, which may be taken over on purpose."""


class OptionError(EngineError):
    """A quantization option that does not exist or cannot be applied to a layer."""


class StoreError(EngineError):
    """A store that is interrupted, truncated, corrupt or belongs to another model."""


class StudyError(EngineError):
    """A study file or request that cannot be used."""


class InputError(EngineError):
    """A request out of range: prompt, seed, steps, budget, size."""


class Cancelled(EngineError):
    """The caller asked for the work to stop; nothing half-done was kept."""
