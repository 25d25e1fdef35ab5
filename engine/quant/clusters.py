"""1-D k-means at, or a hair above, the optimum: the solver for one channel, sorted or (where long) binned.

Clusters of sorted values are runs, so a solution is K - 1 boundaries and the optimum a shortest path of K links. The
cost is Monge, hence the optimum as a function of K is convex, and a price per cluster finds it without a table over K
(Aggarwal, Schieber and Tokuyama 1994): at the right price the unconstrained best path has exactly K links.

1. The values become weighted atoms (distinct values, or bins where there are too many) with prefix sums.
2. Where there are many more atoms than clusters, the price is searched on a coarse cut of them and the path on a
   finer one (sites); otherwise on the atoms themselves, which then gives the optimum.
3. Boundaries move from sites to atoms by a dynamic programme in which every boundary stays within a band, repeated with
   the bands moved along until no boundary touches its band.

Bins and sites hold equal shares of companded mass: codewords are best spread with the cube root of the density of
values (Panter and Dite 1951), so a gap g between neighbours weighs g^(2/3), and never more than one share.

A long channel spends most of its time on being sorted. It goes straight into bins instead, even in value up to one
mean deviation and growing with the distance beyond: bins so narrow that boundaries between them cost nothing that
shows. A channel of which too much falls into one bin (spikes, repeated values) is left to be sorted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.quant.jit import jit, jit_loose

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

MAX_ATOMS = 4096
_COARSE, _FINE = 8, 20  # sites per cluster: to find the price, and to find the path
_LEAST_SITES = 224
_PRICES = 40  # attempts at the price that gives K clusters
_BAND = 4  # places to either side of a boundary
_STRIDES = (3, 1)  # atoms between places
_ROUNDS = 10  # moves of the bands before the search settles for what it has

LEAST_BINNED = 8192  # values of a channel
MOST_BINNED_CLUSTERS = 16
_BINS = 32  # per cluster and doubling of the distance
_DOUBLINGS = 12  # of the distance from the mean, in mean deviations, and one more for the first
_FULLEST = 16  # bins that would hold a cluster's share of all values, at least

_LARGEST = np.float32(3e38)
_ONE = 0x3F800000  # the float32 pattern of 1

# The float32 pattern of x^(2/3) is 2/3 of that of x plus this, to within 4 %.
_TWO_THIRDS_BIAS = 355117738
# That of x^(1/3) is 1/3 of that of x plus this, to within 4 %.
_THIRD_BIAS = 709921077
# Mean of g^(2/3) over exponential gaps of mean 1, as they are between samples of a smooth density.
_GAP_BIAS = 0.9027


@jit
def solve_rows(rows: Floats, clusters: int, codebook: Doubles, start: int, stop: int) -> None:
    """Fill codebook [O, clusters], ascending, with the centroids of rows [O, I], each sorted ascending.

    A row with fewer distinct values than clusters gets them all, the last one repeated.
    """
    masses = np.empty(rows.shape[1], np.float32)
    for row in range(start, stop):
        values = rows[row]
        middle = np.float64(values[values.size // 2])
        _companded(values, masses)
        cuts = _cut(masses, MAX_ATOMS)
        n, s, atom_masses = _prefix_sums(values, middle, masses, cuts)
        bounds = np.arange(cuts.size) if cuts.size - 1 <= clusters else _solve(n, s, atom_masses, clusters)
        last = bounds.size - 2
        for k in range(clusters):
            low, high = bounds[min(k, last)], bounds[min(k, last) + 1]
            codebook[row, k] = middle + (s[high] - s[low]) / (n[high] - n[low])


@jit
def solve_binned_rows(rows: Floats, clusters: int, codebook: Doubles, start: int, stop: int) -> None:
    """`solve_rows` for long rows in any order, and at most MOST_BINNED_CLUSTERS; a row of NaN is left to be sorted."""
    finest = _BINS * clusters
    half = finest * (_DOUBLINGS + 1)
    counts, sums = np.zeros(2 * half, np.int32), np.zeros(2 * half)
    scaled, places = np.empty(rows.shape[1], np.float32), np.empty(rows.shape[1], np.int32)
    shift = 23
    while 1 << (23 - shift) < finest:
        shift -= 1
    for row in range(start, stop):
        values = rows[row]
        codebook[row] = np.nan
        middle = _mean(values)
        scale = _deviation(values, middle)
        if not scale > 0 or not scale < _LARGEST:
            continue
        largest = _place(values, middle, np.float32(1 / scale), shift, half, scaled, places)
        if largest >= half:
            continue
        for i in range(values.size):
            counts[places[i]] += 1
            sums[places[i]] += np.float64(values[i]) - middle
        n, s, masses, fullest = _atoms(counts, sums, half - 1 - largest, half + largest + 1, half, finest, scale)
        if n.size - 1 <= clusters or fullest * _FULLEST * clusters > values.size:
            continue
        bounds = _solve(n, s, masses, clusters)
        for k in range(clusters):
            low, high = bounds[k], bounds[k + 1]
            codebook[row, k] = middle + (s[high] - s[low]) / (n[high] - n[low])


@jit_loose
def _mean(values: Floats) -> np.float32:
    total = np.float32(0)
    for i in range(values.size):
        total += values[i]
    return np.float32(total / values.size)


@jit_loose
def _deviation(values: Floats, middle: np.float32) -> np.float32:
    total = np.float32(0)
    for i in range(values.size):
        total += abs(values[i] - middle)
    return np.float32(total / values.size)


@jit
def _place(values: Floats, middle: np.float32, unit: np.float32, shift: int, half: int, scaled: Floats,
           places: npt.NDArray[np.int32]) -> int:
    """The bin of every value, ascending with it, `half` the first above the middle; the farthest from there."""
    # The leading bits of a float are a logarithm made of straight pieces; from 1 on, the first piece is even.
    for i in range(values.size):
        scaled[i] = abs(values[i] - middle) * unit + np.float32(1)
    patterns = scaled.view(np.int32)
    largest = 0
    for i in range(values.size):
        place = (patterns[i] - _ONE) >> shift
        largest = max(largest, place)
        places[i] = half + place if values[i] >= middle else half - 1 - place
    return largest


@jit
def _atoms(counts: npt.NDArray[np.int32], sums: Doubles, first: int, last: int, half: int, finest: int,
           scale: float) -> tuple[Doubles, Doubles, Floats, int]:
    """Prefix counts and sums of the bins that hold something, their masses, and the fullest; empties the bins."""
    n, s, masses = np.empty(last - first + 1), np.empty(last - first + 1), np.empty(last - first, np.float32)
    n[0], s[0] = 0, 0
    atoms, fullest, room, width = 0, 0, 0.0, scale / finest
    for place in range(first, last):
        distance = place - half if place >= half else half - 1 - place
        span = width * (1 << (distance // finest))
        count = counts[place]
        room += span
        if count == 0:
            continue
        if atoms > 0:  # the values of a bin share what lies between it and the next
            masses[atoms - 1] = (n[atoms] - n[atoms - 1]) * room**2
        n[atoms + 1], s[atoms + 1] = n[atoms] + count, s[atoms] + sums[place]
        atoms, fullest, room = atoms + 1, max(fullest, count), 0.0
        counts[place], sums[place] = 0, 0.0
    masses[atoms - 1] = 0
    patterns = masses.view(np.int32)
    for i in range(atoms - 1):
        patterns[i] = patterns[i] // 3 + _THIRD_BIAS
    return n[:atoms + 1], s[:atoms + 1], masses[:atoms], fullest


@jit
def _companded(values: Floats, masses: Floats) -> None:
    """masses[i] = about (values[i + 1] - values[i])^(2/3); 0 for equal neighbours and the last."""
    last = values.size - 1
    for i in range(last):
        masses[i] = values[i + 1] - values[i]
    masses[last] = 0
    patterns = masses.view(np.int32)
    for i in range(last):
        patterns[i] = patterns[i] // 3 * 2 + _TWO_THIRDS_BIAS if patterns[i] > 0 else 0


@jit
def _cut(masses: Floats, wanted: int) -> Places:
    """Edges [0, ..., size] of at most about `wanted` runs of equal mass; every positive mass ends a run if they fit."""
    positive = _count_positive(masses)
    all_fit = positive < wanted
    share = _LARGEST if all_fit else _share(masses, wanted)
    edges = np.empty(min(positive, 2 * wanted) + 3, np.int64)
    edges[0] = 0
    count, reached, shares = 1, 0.0, 0
    for i in range(masses.size - 1):
        # Without branches and without waiting for the last edge: where runs end is as good as random.
        reached += min(masses[i], share)
        before, shares = shares, int(reached / share)
        edges[count] = i + 1
        count += int(masses[i] > 0) if all_fit else int(shares > before)
    edges[count] = masses.size
    return edges[:count + 1]


@jit_loose
def _count_positive(masses: Floats) -> int:
    count = 0
    for i in range(masses.size):
        count += int(masses[i] > 0)
    return count


@jit
def _share(masses: Floats, wanted: int) -> np.float32:
    """The share c with sum of min(mass, c) = wanted * c, nearly, from above."""
    share = _LARGEST
    for _ in range(8):
        share = np.float32(_capped_sum(masses, share) / wanted)
    return share


@jit_loose
def _capped_sum(masses: Floats, cap: np.float32) -> np.float32:
    total = np.float32(0)
    for i in range(masses.size):
        total += min(masses[i], cap)
    return total


@jit
def _prefix_sums(values: Floats, middle: float, masses: Floats, cuts: Places) -> tuple[Doubles, Doubles, Floats]:
    """Counts and sums of values - middle up to every cut, and the mass of every run between cuts."""
    n, s = np.empty(cuts.size), np.empty(cuts.size)
    run_masses = np.empty(cuts.size - 1, np.float32)
    n[0], s[0] = 0, 0
    total, mass, run = 0.0, np.float32(0), 0
    for i in range(values.size):
        total += np.float64(values[i]) - middle
        mass += masses[i]
        if i + 1 == cuts[run + 1]:
            n[run + 1], s[run + 1], run_masses[run] = i + 1, total, mass
            run += 1
            mass = np.float32(0)
    return n, s, run_masses


@jit
def _solve(n: Doubles, s: Doubles, masses: Floats, clusters: int) -> Places:
    """Boundaries [clusters + 1] over atoms, of which there are more than clusters."""
    atoms = n.size - 1
    price = (float(_share(masses, clusters)) / _GAP_BIAS) ** 3 / 6
    if atoms > clusters * _COARSE:
        sites = _cut(masses, clusters * _COARSE)
        bounds, price, _ = _priced(n[sites], s[sites], price, clusters)
    wanted = max(_LEAST_SITES, clusters * _FINE)
    if atoms <= wanted * 5 // 4:
        bounds, _, exact = _priced(n, s, price, clusters)
        return bounds if exact else _settle(n, s, bounds, 1)
    sites = _cut(masses, wanted)
    bounds, _, _ = _priced(n[sites], s[sites], price, clusters)
    bounds = sites[bounds]
    for stride in _STRIDES:
        bounds = _settle(n, s, bounds, stride)
    return bounds


@jit
def _priced(n: Doubles, s: Doubles, price: float, clusters: int) -> tuple[Places, float, bool]:
    """The best boundaries [clusters + 1] over these sites, their price, and whether they are surely the best."""
    back, links, gain = np.zeros(n.size, np.int64), np.zeros(n.size, np.int64), np.zeros(n.size)
    low, high = 0.0, np.inf
    bounds = np.array([0, n.size - 1])
    for attempt in range(_PRICES):
        found = _path(n, s, price, gain, back, links)
        if found <= clusters and found >= bounds.size - 1:
            bounds = _trace(back, found)
        if found == clusters:
            return bounds, price, True
        if found < clusters:
            high = price
        else:
            low = price
        price *= (found / clusters) ** 3
        if low > 0 and high < np.inf and (attempt % 3 == 2 or not low < price < high):
            price = np.sqrt(low * high)
            if not low < price < high:
                break
    while bounds.size - 1 < clusters:
        bounds = _split(n, s, bounds)
    return bounds, price, False


@jit
def _path(n: Doubles, s: Doubles, price: float, gain: Doubles, back: Places, links: Places) -> int:
    """The number of clusters that is best at this price; `back[i]` is where the cluster that ends at i starts."""
    for i in range(1, n.size):
        best, place = -np.inf, 0
        # The best start never moves back (the cost is Monge).
        for j in range(back[i - 1], i):
            part = s[i] - s[j]
            value = gain[j] + part * part / (n[i] - n[j])
            if value > best:
                best, place = value, j
        gain[i], back[i], links[i] = best - price, place, links[place] + 1
    return int(links[n.size - 1])


@jit
def _trace(back: Places, clusters: int) -> Places:
    bounds = np.empty(clusters + 1, np.int64)
    bounds[clusters] = back.size - 1
    for k in range(clusters, 0, -1):
        bounds[k - 1] = back[bounds[k]]
    return bounds


@jit
def _split(n: Doubles, s: Doubles, bounds: Places) -> Places:
    """One cluster more: the split that gains most."""
    best, cluster, place = -np.inf, 0, 0
    for k in range(bounds.size - 1):
        low, high = bounds[k], bounds[k + 1]
        for i in range(low + 1, high):
            left, right, count = s[i] - s[low], s[high] - s[i], n[i] - n[low]
            rest = n[high] - n[i]
            gain = left * left / count + right * right / rest - (left + right) ** 2 / (count + rest)
            if gain > best:
                best, cluster, place = gain, k, i
    more = np.empty(bounds.size + 1, np.int64)
    more[:cluster + 1] = bounds[:cluster + 1]
    more[cluster + 1] = place
    more[cluster + 2:] = bounds[cluster + 1:]
    return more


@jit
def _settle(n: Doubles, s: Doubles, bounds: Places, stride: int) -> Places:
    """The best boundaries within bands, in steps of `stride` atoms, that move along until none is touched."""
    clusters = bounds.size - 1
    back = np.empty((clusters + 1, 2 * _BAND + 1), np.int64)
    for _ in range(_ROUNDS):
        _banded(n, s, bounds, stride, back)
        touched = False
        step = _BAND
        for k in range(clusters, 1, -1):
            step = back[k, step]
            touched |= abs(step - _BAND) == _BAND
            bounds[k - 1] += (step - _BAND) * stride
        if not touched:
            break
    return bounds


@jit
def _banded(n: Doubles, s: Doubles, bounds: Places, stride: int, back: Places) -> None:
    """back[k, x]: where in its band, best, the cluster starts that ends at place x of the band of boundary k.

    Place x stands for bounds[k] + (x - _BAND) * stride; the ends of the row stay where they are.
    """
    clusters = bounds.size - 1
    gain, previous = np.zeros(back.shape[1]), np.full(back.shape[1], -np.inf)
    previous[_BAND] = 0
    low, high = _BAND, _BAND
    for k in range(1, clusters + 1):
        low_before, high_before = low, high
        low, high = 0 if k < clusters else _BAND, 2 * _BAND if k < clusters else _BAND
        for x in range(low, high + 1):
            end = bounds[k] + (x - _BAND) * stride
            best, place = -np.inf, _BAND
            for y in range(low_before, high_before + 1):
                start = bounds[k - 1] + (y - _BAND) * stride
                if start >= end or end >= n.size:
                    break
                part = s[end] - s[start]
                value = previous[y] + part * part / (n[end] - n[start])
                if value > best:
                    best, place = value, y
            gain[x], back[k, x] = best, place
        gain, previous = previous, gain
