"""Fréchet and kernel distances against closed forms for Gaussians and against torchmetrics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.core.errors import InputError
from engine.metrics.bootstrap import half_width
from engine.metrics.distribution import frechet, frechet_metric, kernel_distance, kernel_metric


def gaussian(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return shift + scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Flat(nn.Module):
    """A feature module that reads the features out of the pixels."""

    num_features = 12

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).float()


def as_images(features: Tensor) -> Tensor:
    return features.float().reshape(len(features), 3, 2, 2)


def test_frechet_of_gaussians_is_the_closed_form() -> None:
    """Between N(0, I) and N(m, s^2 I): D m^2 + D (1 - s)^2."""
    a, b = gaussian(20000, 4, 0), gaussian(20000, 4, 1, shift=1.0, scale=2.0)
    assert frechet(a, b) == pytest.approx(4 * 1 + 4 * 1, rel=0.03)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_is_symmetric_and_unmoved_by_rotation() -> None:
    a, b = gaussian(200, 5, 2), gaussian(200, 5, 3, shift=0.3, scale=1.5)
    q, _ = torch.linalg.qr(gaussian(5, 5, 4))
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9)
    assert frechet(a @ q, b @ q) == pytest.approx(frechet(a, b), rel=1e-9)


def test_frechet_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b = gaussian(80, 12, 5), gaussian(80, 12, 6, shift=0.5, scale=1.3)
    oracle = FrechetInceptionDistance(feature=Flat(), normalize=True, input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    oracle.update(as_images(a), real=True)
    oracle.update(as_images(b), real=False)
    assert frechet(a.float(), b.float()) == pytest.approx(float(oracle.compute()), rel=1e-4)


def test_kernel_distance_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b = gaussian(40, 12, 7), gaussian(40, 12, 8, shift=0.4)
    oracle = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=40, normalize=True)
    oracle.update(as_images(a), real=True)
    oracle.update(as_images(b), real=False)
    assert kernel_distance(a, b) == pytest.approx(float(oracle.compute()[0]), rel=1e-4)


def test_kernel_distance_is_unbiased() -> None:
    """Over many pairs of small sets of one distribution it averages to zero; some are negative."""
    values = [kernel_distance(gaussian(16, 4, 100 + i), gaussian(16, 4, 500 + i)) for i in range(200)]
    mean = sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
    assert abs(mean) < 3 * spread / len(values) ** 0.5
    assert min(values) < 0


def test_kernel_distance_is_unbiased_for_pairs_that_resemble_each_other() -> None:
    """Both sets share most of their variation, as pictures of the same prompts do; left in, the pairs bias it."""
    def values(paired: bool) -> list[float]:
        common = [gaussian(16, 4, 100 + i) for i in range(200)]
        return [kernel_distance(c + 0.1 * gaussian(16, 4, 1000 + i), c + 0.1 * gaussian(16, 4, 2000 + i), paired=paired)
                for i, c in enumerate(common)]

    for paired in (True, False):
        found = torch.tensor(values(paired))
        is_unbiased = abs(float(found.mean())) < 3 * float(found.std()) / len(found) ** 0.5
        assert is_unbiased == paired
    same = gaussian(20, 4, 0)
    assert kernel_distance(same, same, paired=True) == pytest.approx(0, abs=1e-12)
    assert kernel_metric(same, same, "flat", paired=True)[0].value == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="got 20 and 10"):
        kernel_metric(same, same[:10], "flat", paired=True)


def test_kernel_distance_by_hand_on_unequal_sets() -> None:
    a, b = gaussian(3, 2, 9), gaussian(2, 2, 10)
    k = lambda x, y: float((x @ y / 2 + 1) ** 3)  # noqa: E731
    within_a = sum(k(a[i], a[j]) for i in range(3) for j in range(3) if i != j) / 6
    within_b = (k(b[0], b[1]) + k(b[1], b[0])) / 2
    cross = sum(k(x, y) for x in a for y in b) / 6
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * cross, rel=1e-9)


def test_metrics_carry_n_name_and_an_interval_that_covers() -> None:
    a, b = gaussian(64, 8, 11), gaussian(64, 8, 12, shift=0.5)
    metric, values = kernel_metric(a, b, "flat")
    assert metric.high - metric.value == pytest.approx(half_width(values))
    assert metric.name == "kernel_distance[flat]" and metric.n == 64 and not metric.higher_is_better
    assert metric.low < metric.value < metric.high
    assert metric.value == pytest.approx(kernel_distance(a, b))
    assert frechet_metric(a, b, "flat")[0].value == pytest.approx(frechet(a, b))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Kernel distance of two distributions, truth from large sets, 60 repetitions: at least 80 % of 95 %."""
    truth = kernel_distance(gaussian(3000, 3, 13), gaussian(3000, 3, 14, shift=0.7))
    hits = 0
    for i in range(60):
        m, _ = kernel_metric(gaussian(60, 3, 1000 + i), gaussian(60, 3, 2000 + i, shift=0.7), "flat")
        hits += m.low <= truth <= m.high
    assert hits >= 48


def test_too_few_images_are_refused() -> None:
    with pytest.raises(InputError, match="at least 16 images"):
        frechet_metric(gaussian(15, 8, 0), gaussian(15, 8, 1), "flat")
    frechet_metric(gaussian(16, 8, 0), gaussian(16, 8, 1), "flat")
    with pytest.raises(InputError, match="at least 2"):
        kernel_metric(gaussian(1, 8, 0), gaussian(1, 8, 1), "flat")


def test_nan_features_are_refused() -> None:
    broken = gaussian(20, 4, 0)
    broken[3, 1] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        kernel_metric(broken, gaussian(20, 4, 1), "flat")
