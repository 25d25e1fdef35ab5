"""Sentences, labels and number formats that people read."""

from __future__ import annotations

from engine.core.record import Metric
from engine.core.sizes import BYTES_PER_MB

METRIC_TITLES = {
    "psnr": "PSNR", "ssim": "SSIM", "latent_sqnr": "Latent SQNR", "feature_distance": "Feature distance",
    "clip_score": "CLIP score", "kernel_distance": "Kernel distance", "frechet": "Fréchet distance",
    "image_mse": "Image MSE",
}


def megabytes(count: float) -> str:
    """`3.71 MB` (10^6)."""
    return f"{count / BYTES_PER_MB:,.2f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def seconds(value: float | None) -> str:
    """`12 s left`, `3 min left`, or nothing."""
    if value is None:
        return ""
    return f"{value:.0f} s left" if value < 90 else f"{value / 60:.0f} min left"


def inside(title: str) -> str:
    """A title as it stands inside a sentence: `measured damage`, `predictor (Qua²SeDiMo)`."""
    return title[:1].lower() + title[1:]


def metric_title(name: str) -> str:
    """`feature_distance[emoji-clip]` -> `Feature distance (emoji-clip)`."""
    base, _, extractor = name.partition("[")
    title = METRIC_TITLES.get(base, base.replace("_", " "))
    return f"{title} ({extractor.rstrip(']')})" if extractor else title


def metric_value(metric: Metric) -> str:
    """Value with as many digits as the interval supports."""
    if metric.value == float("inf"):
        return "identical"
    text = f"{metric.value:.2f}" if abs(metric.value) >= 10 else f"{metric.value:.4f}"
    return f"{text} {metric.unit}".strip()
