"""Where a model computes, in which precision, and whether its parts wait in main memory."""

from __future__ import annotations

from dataclasses import dataclass

from engine.core.errors import ModelError

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class Placement:
    """How a model is put to work.

    Attributes:
        device: "cpu", "cuda", "cuda:1", ...
        dtype: one of `DTYPES`; measurements are made in float32.
        offload: each part (text encoder, denoiser, autoencoder) is on the device only while it computes.

    Raises:
        ModelError: no such precision, or a CPU that should be offloaded to itself.
    """

    device: str = "cpu"
    dtype: str = "float32"
    offload: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ModelError(f"Models compute in {', '.join(DTYPES)}, not in {str(self.dtype)[:20]!r}.")
        if self.offload and self.device.partition(":")[0] == "cpu":
            raise ModelError("Offloading keeps the parts of a model in main memory while an accelerator computes; name "
                             "one with --device cuda, or leave --offload out.")


PLAIN = Placement()  # the CPU, in float32
