"""`uaq` and k-means as torch operations, for weights prepared on an accelerator; the same tensors come out.

`uaq` scores the same candidates as the compiled loops and picks the same but for ties. k-means finds the best
boundaries among sites at equal shares of companded mass (see `clusters`), by the plain dynamic programme over all
channels at once with clusters of at most a few shares; then all boundaries of a channel move within bands around where
they are, in strides that shrink to one value, while one touches its band.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from engine.quant import affine, kmeans
from engine.quant.packing import pack

Tensors = dict[str, torch.Tensor]
Accelerated = Callable[[torch.Tensor, Sequence[int], torch.dtype], dict[int, Tensors]]

WORTH_IT = 1 << 16  # weights; below, moving them takes longer than quantizing them
_SITES = 1024  # at most about; but for the least number per cluster
_MOST_SITES, _LEAST_SITES = 16, 6  # per cluster
_LONGEST = 6  # times its share of the sites that one cluster may span
_CHUNK = 1 << 25  # starts and ends of clusters weighed together
_BAND = 4  # strides to either side
_ROUNDS = 12  # moves per stride before the search settles for what it has
_SHARE_ROUNDS = 8


def accelerator(weights: int) -> torch.device | None:
    """Where a weight of this many values is quantized, unless by the compiled loops."""
    return torch.device("cuda") if weights >= WORTH_IT and torch.cuda.is_available() else None


def uaq(weight: torch.Tensor, bits: Sequence[int], dtype: torch.dtype) -> dict[int, Tensors]:
    """As `affine.quantize`. weight: float32 [O, in, *kernel] on any device; tensors come back on the CPU."""
    rows = weight.flatten(1)
    return {b: _uaq(rows, b, dtype) for b in bits}


def kmeans_c(weight: torch.Tensor, bits: Sequence[int], dtype: torch.dtype) -> dict[int, Tensors]:
    """As `kmeans.quantize_channels`."""
    rows = weight.flatten(1)
    ordered = rows.sort(dim=1).values
    return {b: _coded(rows, _codebooks(ordered, 2**b), b, dtype) for b in bits}


def kmeans_a(weight: torch.Tensor, bits: Sequence[int], dtype: torch.dtype) -> dict[int, Tensors]:
    """As `kmeans.quantize_tensor`."""
    rows = weight.reshape(1, -1)
    ordered = rows.sort(dim=1).values
    made = {b: _coded(rows, _codebooks(ordered, 2**b), b, dtype) for b in bits}
    return {b: {**tensors, "codebook": tensors["codebook"][0]} for b, tensors in made.items()}


ACCELERATED: dict[str, Accelerated] = {"uaq": uaq, "kmeans_c": kmeans_c, "kmeans_a": kmeans_a}


def _uaq(rows: torch.Tensor, bits: int, dtype: torch.dtype) -> Tensors:
    low, high = rows.amin(1).cpu().numpy(), rows.amax(1).cpu().numpy()
    delta, zero = (torch.from_numpy(a).to(rows.device) for a in affine.candidates(low, high, bits, dtype))
    unit = torch.from_numpy(affine.error_unit(low, high, dtype)).to(rows.device)
    best = torch.full((len(rows),), torch.inf, device=rows.device)
    choice = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    for candidate in range(delta.shape[1]):
        d, z = delta[:, candidate, None], zero[:, candidate, None]
        codes = ((rows / d).round_() + z).clamp_(0, 2**bits - 1)
        score = ((rows - (codes - z) * d).abs_() * unit[:, None]).pow_(affine.NORM).sum(1)
        better = score < best
        best, choice = torch.where(better, score, best), choice.masked_fill(better, candidate)
    d, z = (a.gather(1, choice[:, None]) for a in (delta, zero))
    codes = ((rows / d).round_() + z).clamp_(0, 2**bits - 1).to(torch.uint8)
    return {"codes": pack(codes, bits), "delta": d[:, 0].to(dtype).cpu(), "zero": z[:, 0].to(dtype).cpu()}


def _coded(rows: torch.Tensor, codebooks: torch.Tensor, bits: int, dtype: torch.dtype) -> Tensors:
    """Codes against the codebooks as stored. codebooks: float64 [O, K], ascending."""
    levels = torch.from_numpy(kmeans.stored_values(codebooks.cpu().numpy(), dtype)).to(rows.device)
    middles = levels[:, :-1] + (levels[:, 1:] - levels[:, :-1]) / 2
    codes = torch.searchsorted(middles.contiguous(), rows.contiguous()).to(torch.uint8)
    return {"codes": pack(codes, bits), "codebook": levels.to(dtype).cpu()}


def _codebooks(ordered: torch.Tensor, clusters: int) -> torch.Tensor:
    """Centroids, float64 [O, K], of rows sorted ascending [O, I]."""
    distinct = (ordered.diff(dim=1) > 0).sum(1) + 1
    few = distinct <= clusters
    result = torch.empty((len(ordered), clusters), dtype=torch.float64, device=ordered.device)
    if few.any():
        result[few] = torch.from_numpy(kmeans.sorted_codebooks(ordered[few].cpu().numpy(), clusters)).to(result.device)
    if not few.all():
        result[~few] = _solved(ordered[~few], clusters)
    return result


def _solved(ordered: torch.Tensor, clusters: int) -> torch.Tensor:
    size = ordered.shape[1]
    middle = ordered.mean(1, dtype=torch.float64)[:, None]
    sums = torch.nn.functional.pad((ordered - middle).cumsum(1), (1, 0))
    share = max(_LEAST_SITES, min(_MOST_SITES, _SITES // clusters))
    wanted = min(size, clusters * share)
    step = max(1, _CHUNK // (wanted * _LONGEST * share))
    bounds = torch.cat([_among_sites(ordered[i:i + step], sums[i:i + step], clusters, wanted, _LONGEST * share)
                        for i in range(0, len(ordered), step)])
    stride = max(1, size // wanted)
    while True:
        for _ in range(_ROUNDS):
            bounds, touched = _moved(sums, bounds, stride)
            if not touched:
                break
        if stride == 1:
            break
        stride = max(1, stride // 3)
    return sums.gather(1, bounds).diff(dim=1) / bounds.diff(dim=1) + middle


def _sites(ordered: torch.Tensor, wanted: int) -> torch.Tensor:
    """Places [O, wanted + 1] that share the companded mass; no gap counts for more than one share."""
    size = ordered.shape[1]
    masses = ordered.diff(dim=1).double().pow(2 / 3)
    share = masses.sum(1, keepdim=True) / wanted
    for _ in range(_SHARE_ROUNDS):
        share = masses.clamp(max=share).sum(1, keepdim=True) / wanted
    reached = masses.clamp(max=share).cumsum(1)
    count = torch.arange(1, wanted, device=ordered.device)
    inner = torch.searchsorted(reached, count / wanted * reached[:, -1:]) + 1
    inner = (inner - count).cummax(1).values + count  # at least one value between any two
    inner = torch.minimum(inner, size - wanted + count)
    return torch.nn.functional.pad(torch.nn.functional.pad(inner, (1, 0)), (0, 1), value=size)


def _among_sites(ordered: torch.Tensor, sums: torch.Tensor, clusters: int, wanted: int, longest: int) -> torch.Tensor:
    """The best boundaries [O, K + 1] among `wanted` sites, clusters spanning at most `longest` of them."""
    sites = _sites(ordered, wanted)
    at = sums.gather(1, sites)
    # What a cluster explains that starts `longest - l` sites before it ends, [O, ends, l].
    ahead = (longest, 0)
    starts = torch.nn.functional.pad(at, ahead).unfold(1, longest + 1, 1)[:, :, :-1]
    firsts = torch.nn.functional.pad(sites, ahead, value=-1).unfold(1, longest + 1, 1)[:, :, :-1]
    explained = (at[:, :, None] - starts).square_() / (sites[:, :, None] - firsts)
    gain = torch.full_like(at, -torch.inf)
    gain[:, 0] = 0
    back = []
    for _ in range(clusters):
        before = torch.nn.functional.pad(gain, ahead, value=-torch.inf).unfold(1, longest + 1, 1)[:, :, :-1]
        best = (before + explained).max(2)
        gain = best.values
        back.append(best.indices)
    place = torch.full_like(sites[:, :1], wanted)
    places = [place]
    for chosen in reversed(back):
        place = place - longest + chosen.gather(1, place)
        places.append(place)
    return sites.gather(1, torch.cat(places[::-1], 1))


def _moved(sums: torch.Tensor, bounds: torch.Tensor, stride: int) -> tuple[torch.Tensor, bool]:
    """The best boundaries within their bands, and whether any lies at the end of its band."""
    clusters, size = bounds.shape[1] - 1, sums.shape[1] - 1
    steps = torch.arange(-_BAND, _BAND + 1, device=bounds.device)
    starts = bounds[:, :1]
    gain = torch.zeros_like(starts, dtype=sums.dtype)
    back = []
    for k in range(1, clusters + 1):
        ends = bounds[:, k:k + 1] + steps * stride if k < clusters else bounds[:, k:]
        inside = (ends > 0) & ((ends < size) | (k == clusters))
        ends = ends.clamp(0, size)
        count = (ends[:, :, None] - starts[:, None, :]).double()
        part = sums.gather(1, ends)[:, :, None] - sums.gather(1, starts)[:, None, :]
        value = gain[:, None, :] + part * part / count.clamp(min=1)
        value = value.masked_fill((count <= 0) | ~inside[:, :, None], -torch.inf)
        best = value.max(2)
        gain, starts = best.values, ends
        back.append(best.indices)
    moved, place = bounds.clone(), torch.zeros_like(bounds[:, :1])
    touched = torch.zeros((), dtype=torch.bool, device=bounds.device)
    for k in range(clusters, 1, -1):
        place = back[k - 1].gather(1, place)
        step = place - _BAND
        moved[:, k - 1:k] += step * stride
        touched |= (step.abs() == _BAND).any()
    return moved, bool(touched)

