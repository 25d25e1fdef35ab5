"""Keeps the libraries' one-off notices (torchvision or kernels absent, safety checker off) off the user's screen."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

_LOGGERS = ("diffusers", "transformers", "huggingface_hub", "bitsandbytes", "torchao", "torch.utils._pytree")


@contextlib.contextmanager
def quiet(bars_too: bool = True) -> Iterator[None]:
    """Within the block the model libraries report errors only, and no warnings nor (`bars_too`) progress bars show."""
    # imported first: these packages set their own log levels on import
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    bars = [library for library in (diffusers_logging, transformers_logging)
            if bars_too and library.is_progress_bar_enabled()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        for library in bars:
            library.disable_progress_bar()
        try:
            yield
        finally:
            for library in bars:
                library.enable_progress_bar()
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
