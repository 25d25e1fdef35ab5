"""1-D k-means per channel against scikit-learn: same weights, same run, ratios only.

Ours is everything `quantize` does for `kmeans_c`: checking, sorting, solving, codes and packing, on torch's threads.
The peer is `KMeans(n_init=1, max_iter=100)` per channel on one thread (at these sizes more make it slower), its
codebook written back in one vectorised step. Both keep codebooks in float32. The weights are heavy-tailed (Student's
t, 4 degrees of freedom), with as many inputs as attention (1152) and wide convolution layers (11520) have.

At 1152 inputs most of the time is the search for the path over sites. Sixteen sites per cluster instead of 28 and 20,
moved straight to values, take 30 to 45 % off it, which would pass 100 times the peer; but then one to three of 1152
channels end up to 0.1 % above the peer's, which at its best is at the optimum, and no channel may. Looking reciprocals
up instead of dividing, narrowing the search by the coarse path, or moving single boundaries far away gain nothing.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.bench.machine import interleaved, machine, median
from engine.core.errors import EngineError
from engine.core.option import Option
from engine.quant.clusters import LEAST_BINNED, solve_binned_rows, solve_rows
from engine.quant.jit import jit
from engine.quant.table import quantize

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

BITS = (3, 4)
CHANNELS = {1152: 1152, 11520: 192}  # inputs -> channels
MOST_ROUNDS = 5
PEER = "scikit-learn KMeans(n_init=1, max_iter=100) per channel, one thread"


def run(model: str = "", rounds: int = 3, channels: dict[int, int] | None = None) -> dict[str, Any]:
    """`peer`, `n` channels, `ratio` (the cases' smallest); every case's as `<inputs> inputs, <bits> bits: <figure>`.

    Per case: `n` channels; `ratio` of times, peer / ours, medians over the rounds; `cpu_ratio`, of processor time over
    all threads, which a busy machine disturbs less; `sse_ratio`, our squared error / the exact optimum over all
    channels, and the peer's; `worst_channel`, the largest of our squared errors / the peer's (at most 1: no channel is
    worse); `sort_share` and `solve_share` of our processor time, the rest being codes and packing (long channels are
    not sorted); `limit`, what `cpu_ratio` would be if solving took no time. `model` is not used, the weights are
    synthetic.
    """
    figures: dict[str, Any] = {"threads": torch.get_num_threads(), "load_before": machine()["load"]}
    cases: list[dict[str, Any]] = []
    for inputs, count in (channels or CHANNELS).items():
        weight = (np.random.default_rng(inputs).standard_t(4, (count, inputs)) * 0.02).astype(np.float32)
        for bits in BITS:
            cases.append(_case(weight, bits, min(rounds, MOST_ROUNDS)))
            figures |= {f"{inputs} inputs, {bits} bits: {name}": value for name, value in cases[-1].items()}
    whole = {"n": sum((channels or CHANNELS).values()), "peer": PEER, "ratio": min(case["ratio"] for case in cases)}
    return whole | figures | {"load_after": machine()["load"]}


def _case(weight: Floats, bits: int, rounds: int) -> dict[str, Any]:
    tensor, option = torch.from_numpy(weight), Option("kmeans_c", bits)
    theirs: list[Floats] = []
    processor: dict[str, list[float]] = {"ours": [], "peer": []}

    def ours_once() -> None:
        start = time.process_time()
        quantize(tensor, option, 32)
        processor["ours"].append(time.process_time() - start)

    def peer_once() -> None:
        start = time.process_time()
        theirs[:] = [_scikit_learn(weight, 2**bits)]
        processor["peer"].append(time.process_time() - start)

    seconds = interleaved({"ours": ours_once, "peer": peer_once}, rounds)
    ours = quantize(tensor, option, 32).dequantize().numpy()
    own, other = _squared_error(weight, ours), _squared_error(weight, theirs[0])
    parts = _parts(weight, 2**bits, min(processor["ours"][1:]), rounds)
    best = sum(_optimum(np.sort(channel).astype(np.float64) - channel.mean(), 2**bits) for channel in weight)
    return {
        "n": len(weight),
        "ratio": median(seconds["peer"]) / median(seconds["ours"]),
        "cpu_ratio": median(processor["peer"][1:]) / median(processor["ours"][1:]),  # the first round warms up
        "sse_ratio": float(own.sum() / best),
        "peer_sse_ratio": float(other.sum() / best),
        "worst_channel": float((own / other).max()),
        **parts, "limit": median(processor["peer"][1:]) / median(processor["ours"][1:]) / (1 - parts["solve_share"]),
    }


def _parts(weight: Floats, clusters: int, whole_s: float, rounds: int) -> dict[str, float]:
    """What sorting and solving take of `whole_s`, each alone, at their best of a few rounds."""
    sorting, solving = [], []
    codebook, binned = np.empty((len(weight), clusters)), weight.shape[1] >= LEAST_BINNED
    for _ in range(rounds + 1):
        start = time.process_time()
        rows = weight if binned else np.sort(weight, axis=1)
        sorting.append(0.0 if binned else time.process_time() - start)
        start = time.process_time()
        (solve_binned_rows if binned else solve_rows)(rows, clusters, codebook, 0, len(rows))
        solving.append(time.process_time() - start)
    return {"sort_share": min(sorting) / whole_s, "solve_share": min(solving) / whole_s}


def _scikit_learn(weight: Floats, clusters: int) -> Floats:
    try:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise EngineError("This comparison needs scikit-learn, which is missing: pip install scikit-learn.") from None
    result = np.empty_like(weight)
    with threadpool_limits(1):
        for row, channel in enumerate(weight):
            fitted = KMeans(clusters, n_init=1, max_iter=100, random_state=row).fit(channel[:, None])
            result[row] = fitted.cluster_centers_[fitted.labels_, 0]
    return result


def _squared_error(weight: Floats, result: Floats) -> Doubles:
    """Per channel."""
    return np.asarray(((weight.astype(np.float64) - result) ** 2).sum(axis=1))


@jit
def _optimum(values: Doubles, clusters: int) -> float:
    """The least squared error of sorted, centred values: dynamic programme by divide and conquer, O(K n log n)."""
    size = values.size
    total, square = np.zeros(size + 1), np.zeros(size + 1)
    for i in range(size):
        total[i + 1] = total[i] + values[i]
        square[i + 1] = square[i] + values[i] ** 2
    best, previous = np.full(size + 1, np.inf), np.full(size + 1, np.inf)
    previous[0] = 0
    stack = np.empty((128, 4), np.int64)
    for k in range(clusters):
        stack[0] = np.array([k + 1, size, k, size - 1])
        depth = 1
        while depth > 0:
            depth -= 1
            low, high, first, last = stack[depth]
            if low > high:
                continue
            end, start = (low + high) // 2, first
            best[end] = np.inf
            for j in range(first, min(last, end - 1) + 1):
                cost = previous[j] + square[end] - square[j] - (total[end] - total[j]) ** 2 / (end - j)
                if cost < best[end]:
                    best[end], start = cost, j
            stack[depth] = np.array([low, end - 1, first, start])
            stack[depth + 1] = np.array([end + 1, high, start, last])
            depth += 2
        best[:k + 1] = np.inf
        previous, best = best, previous
    return float(previous[size])
