"""Models larger than the accelerator's memory: each part is there only while it computes.

The parts live in main memory, where recipes move their weights; diffusers brings text encoders, denoiser and
autoencoder to the device one after the other. (Offloading layer by layer is not offered: it keeps weights in places
of its own, where a recipe could not change them.)
"""

from __future__ import annotations

from typing import Any

from engine.core.errors import ModelError
from engine.models.quiet import quiet


def offload(pipeline: Any, device: str) -> None:
    """Have a pipeline, which is in main memory, bring each part to `device` when it computes, and back.

    Raises:
        ModelError: this pipeline cannot do it.
    """
    try:
        with quiet():
            pipeline.enable_model_cpu_offload(device=device)
    except (ValueError, ImportError, RuntimeError, NotImplementedError) as failure:
        reason = (str(failure) or type(failure).__name__).splitlines()[0][:160]
        raise ModelError(f"{type(pipeline).__name__} cannot be offloaded from {device} ({reason}); open it without "
                         f"--offload, or on the CPU.") from None
