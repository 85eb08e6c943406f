"""Pseudo-labels by offline balanced clustering of pooled features, run once every few epochs.

Labels taken from the head's own argmax collapse to one class; a balanced assignment cannot. Everything here
runs on the CPU in float64 without gradients and gives the same labels for the same inputs on every rank.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from util.seeding import generator

# Above this many points the exact assignment (cubic) gives way to Sinkhorn's potentials with greedy rounding.
EXACT_LIMIT = 1000


def pooled_statistics(feature: Tensor) -> Tensor:
    """One vector per image for clustering: mean and standard deviation over positions of ReLU(f).

    Not the plain mean: residual branches that end in an instance norm without affine parameters have a
    spatial mean of 0, so the mean of a residual layer's output is that of the layer before all blocks and
    says nothing about them.

    Args:
        feature: (N,C,H,W).

    Returns:
        (N,2C) float32: C means, then C population standard deviations.
    """
    active = feature.detach().float().relu().flatten(2)
    return torch.cat([active.mean(dim=2), active.std(dim=2, correction=0)], dim=1)


def _checked(features: Tensor) -> Tensor:
    """(M,D) in float64 on the CPU; ValueError where clustering would be meaningless."""
    if features.dim() != 2 or 0 in features.shape:
        raise ValueError(f"clustering needs features (images, channels), got {tuple(features.shape)}: no images read?")
    features = features.detach().to("cpu", torch.float64)
    bad = (~features.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"features of {len(bad)} of {len(features)} images are not finite (first row: {bad[0]}): "
            "the encoder has diverged, or that image holds NaN"
        )
    return features


def standardise(features: Tensor) -> Tensor:
    """Every channel to mean 0 and standard deviation 1 over the images, (M,D) -> (M,D) float64 on the CPU.

    Channels that are constant up to round-off become 0 rather than noise.

    Raises:
        ValueError: no images, or values that are not finite.
    """
    features = _checked(features)
    centred = features - features.mean(dim=0)
    std = centred.square().mean(dim=0).sqrt()
    # Features come from float32 networks: a deviation below its resolution is round-off.
    floor = features.abs().amax(dim=0) * torch.finfo(torch.float32).eps
    return torch.where(std > floor, centred / std.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def pca_whiten(features: Tensor, dims: int = 32) -> Tensor:
    """Project on the leading principal components and scale each to standard deviation 1.

    Args:
        features: (M,D).
        dims: components to keep; fewer where the features have a lower rank.

    Returns:
        (M,d) float64 on the CPU, d = min(dims, rank), or one column of zeros when all images are alike. Signs
        are fixed: the largest entry of each component's direction is positive.

    Raises:
        ValueError: dims below 1, no images, or values that are not finite.
    """
    if dims < 1:
        raise ValueError(f"PCA to {dims} dimensions keeps nothing: ask for at least 1")
    features = _checked(features)
    left, singular, right = torch.linalg.svd(features - features.mean(dim=0), full_matrices=False)
    # Relative to the features themselves: the spread of identical rows is round-off, not a component.
    scale = max(float(singular[0]), float(torch.linalg.matrix_norm(features)))
    keep = min(dims, int((singular > scale * torch.finfo(torch.float32).eps).sum()))
    if keep == 0:
        return features.new_zeros(len(features), 1)
    leading = right[:keep].gather(1, right[:keep].abs().argmax(dim=1, keepdim=True)).sign()
    whitened: Tensor = left[:, :keep] * leading.flatten() * len(features) ** 0.5
    return whitened


def _assign_exactly(cost: Tensor) -> Tensor:
    """Balanced assignment of least cost: every cluster gets floor(M/k) points, M mod k of them one more.

    Each cluster offers floor(M/k) slots that must be filled and one that need not be; dummy points take up
    the surplus of the latter, for free.
    """
    points, clusters = cost.shape
    base, extra = divmod(points, clusters)
    if extra == 0:
        slots = cost.repeat_interleave(base, dim=1)
    else:
        slots = torch.cat([cost.repeat_interleave(base, dim=1), cost], dim=1)
        # Larger than any saving that a swap of real points could bring.
        forbidden = float(cost.abs().max()) * 4 * (points + 1) + 1.0
        dummies = torch.full((clusters - extra, slots.shape[1]), forbidden, dtype=cost.dtype)
        dummies[:, base * clusters :] = 0.0
        slots = torch.cat([slots, dummies], dim=0)
    _, column = _assignment(slots)
    chosen = column[:points]
    regular = base * clusters
    return torch.where(chosen < regular, chosen // max(base, 1), chosen - regular)


def _sinkhorn_cost(cost: Tensor, temperature: float, iterations: int, start: Tensor) -> tuple[Tensor, Tensor]:
    """The cost minus each cluster's price, such that the soft assignment balances; and the prices (k,)."""
    points, clusters = cost.shape
    share = torch.log(torch.tensor(points / clusters, dtype=cost.dtype))
    price = start
    for _ in range(iterations):
        logits = ((price - cost) / temperature).log_softmax(dim=1)
        price = price + temperature * (share - logits.logsumexp(dim=0))
    return cost - price, price


def _round_greedily(cost: Tensor) -> Tensor:
    """Balanced labels from priced costs: points that lose most by their second choice are served first."""
    points, clusters = cost.shape
    base, extra = divmod(points, clusters)
    ranked = cost.sort(dim=1, stable=True)
    last = min(1, clusters - 1)
    order = (ranked.values[:, last] - ranked.values[:, 0]).argsort(descending=True, stable=True)
    preference: list[list[int]] = ranked.indices.tolist()
    count, labels = [0] * clusters, [0] * points
    for point in order.tolist():
        for cluster in preference[point]:
            if count[cluster] < base or (count[cluster] == base and extra > 0):
                extra -= count[cluster] == base
                count[cluster] += 1
                labels[point] = cluster
                break
    return torch.tensor(labels, dtype=torch.long)


def _assign(cost: Tensor) -> Tensor:
    """Balanced assignment: exact for up to EXACT_LIMIT points, nearly so (annealed Sinkhorn) beyond."""
    if len(cost) <= EXACT_LIMIT:
        return _assign_exactly(cost)
    spread = float(cost.std()) or 1.0
    price = torch.zeros(cost.shape[1], dtype=cost.dtype)
    priced = cost
    for temperature in (0.3, 0.1, 0.03, 0.01):
        priced, price = _sinkhorn_cost(cost, temperature * spread, 20, price)
    return _round_greedily(priced)


def _square_distances(features: Tensor, centres: Tensor) -> Tensor:
    return torch.cdist(features, centres, compute_mode="donot_use_mm_for_euclid_dist").square()


def _initial_centres(features: Tensor, k: int, known: Tensor, random: torch.Generator) -> Tensor:
    """Class means where labels are known, k-means++ (Arthur and Vassilvitskii 2007) for the rest."""
    centres = features.new_zeros(k, features.shape[1])
    done = [c for c in range(k) if bool((known == c).any())]
    for c in done:
        centres[c] = features[known == c].mean(dim=0)
    pool = features[known < 0] if bool((known < 0).any()) else features
    for c in (c for c in range(k) if c not in done):
        chance = _square_distances(pool, centres[done]).amin(dim=1) if done else pool.new_ones(len(pool))
        if float(chance.sum()) <= 0:  # no point left that differs from all centres
            chance = torch.ones_like(chance)
        cumulative = chance.cumsum(dim=0)
        drawn = torch.rand(1, generator=random, dtype=torch.float64) * cumulative[-1]
        index = int(torch.searchsorted(cumulative, drawn, right=True).clamp_max(len(pool) - 1))
        centres[c] = pool[index]
        done.append(c)
    return centres


def _update_centres(features: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """The mean of each cluster; an empty one stays where it is."""
    count = torch.bincount(labels, minlength=len(centres)).to(features.dtype)[:, None]
    total = torch.zeros_like(centres).index_add_(0, labels, features)
    return torch.where(count > 0, total / count.clamp_min(1), centres)


def _lloyd(features: Tensor, centres: Tensor, known: Tensor, iterations: int) -> tuple[Tensor, Tensor, float]:
    """Alternate balanced assignment and means until the labels stay; last, the sum of squared distances."""
    free = known < 0
    labels = known.clone()
    for _ in range(iterations):
        update = known.clone()
        if bool(free.any()):
            update[free] = _assign(_square_distances(features[free], centres))
        unchanged = bool((update == labels).all())
        labels = update
        centres = _update_centres(features, labels, centres)
        if unchanged:
            break
    return labels, centres, float((features - centres[labels]).square().sum())


def _checked_labels(known: Tensor | None, count: int, k: int) -> Tensor:
    if known is None:
        return torch.full((count,), -1, dtype=torch.long)
    known = known.detach().to("cpu", torch.long)
    if known.shape != (count,):
        raise ValueError(f"{count} images need as many known labels (-1 for unknown), got shape {tuple(known.shape)}")
    if int(known.min()) < -1 or int(known.max()) >= k:
        raise ValueError(f"known labels {int(known.min())}..{int(known.max())} must lie in -1..{k - 1}")
    return known


def balanced_kmeans(
    features: Tensor,
    k: int,
    seed: int,
    known: Tensor | None = None,
    iterations: int = 30,
    restarts: int = 4,
) -> tuple[Tensor, Tensor]:
    """k-means whose clusters have equal sizes, with optional known labels.

    Clusters of equal size cannot collapse into one. The balance is over the images without a label: each
    cluster gets floor or ceil of their number over k, however many labelled images it has already.

    Args:
        features: (M,D), best standardised or whitened.
        k: clusters; M may be smaller, then M of them hold one image each. Identical images are split as well.
        seed: keys the k-means++ draws; equal inputs and seeds give equal labels.
        known: (M,) int64, -1 for unknown. A known label is kept, its cluster starts at its class mean.
        iterations: at most so many rounds of assignment and update.
        restarts: initialisations; the one with the smallest sum of squared distances wins.

    Returns:
        labels (M,) int64 in 0..k-1 and centres (k,D) float64, both on the CPU.

    Raises:
        ValueError: no images, values that are not finite, k, iterations or restarts below 1, labels out
            of range.
    """
    features = _checked(features)
    if k < 1 or iterations < 1 or restarts < 1:
        raise ValueError(f"k {k}, iterations {iterations} and restarts {restarts} must all be at least 1")
    fixed = _checked_labels(known, len(features), k)
    best: tuple[Tensor, Tensor, float] | None = None
    for restart in range(restarts):
        centres = _initial_centres(features, k, fixed, generator(seed, "kmeans++", restart))
        found = _lloyd(features, centres, fixed, iterations)
        if best is None or found[2] < best[2]:
            best = found
    assert best is not None  # restarts >= 1
    return best[0], best[1]


def sinkhorn_assign(logits: Tensor, iterations: int = 100, temperature: float = 0.05) -> Tensor:
    """Balanced labels closest to a head's predictions, by optimal transport (Asano et al. 2020).

    Rows are soft assignments that are rescaled until every class has the same mass, then rounded so that
    every class gets floor or ceil of M/K images: rows that are all alike are split too, which a plain argmax
    would not do.

    Args:
        logits: (M,K) of any scale.
        iterations: of Sinkhorn's rescaling.
        temperature: of the soft assignment; small ones are nearer to the best hard assignment and
            converge slower.

    Returns:
        (M,) int64 on the CPU.

    Raises:
        ValueError: no images, values that are not finite, iterations below 1 or a temperature not above 0.
    """
    logits = _checked(logits)
    if iterations < 1 or temperature <= 0:
        raise ValueError(f"Sinkhorn needs iterations {iterations} >= 1 and temperature {temperature} > 0")
    start = torch.zeros(logits.shape[1], dtype=logits.dtype)
    priced, _ = _sinkhorn_cost(-logits, temperature, iterations, start)
    return _round_greedily(priced)


def match_clusters(new: Tensor, previous: Tensor, k: int, fixed: Collection[int] = ()) -> Tensor:
    """Rename clusters so that as many images as possible keep their previous label (Hungarian method).

    Args:
        new: (M,) int64 in -1..k-1.
        previous: (M,) labels of the same images in the round before; -1 where there was none.
        k: clusters.
        fixed: classes with known labels, which keep their name.

    Returns:
        (M,) new labels, renamed; -1 stays. With nothing to tell names apart they stay as they are.

    Raises:
        ValueError: lengths that differ, or labels out of range.
    """
    if new.shape != previous.shape:
        raise ValueError(f"{len(new)} new and {len(previous)} previous labels cannot be matched: the images differ")
    new = _checked_labels(new, len(new), k)
    previous = _checked_labels(previous, len(new), k)
    both = (new >= 0) & (previous >= 0)
    overlap = torch.bincount(new[both] * k + previous[both], minlength=k * k).view(k, k)
    # The identity breaks ties and can never outweigh one image.
    gain = overlap * (k + 1) + torch.eye(k, dtype=torch.long)
    free = torch.tensor([c for c in range(k) if c not in fixed], dtype=torch.long)
    rows, columns = _assignment(-gain[free][:, free])
    name = torch.arange(k)
    name[free[rows]] = free[columns]
    return torch.where(new >= 0, name[new.clamp_min(0)], new)


def _assignment(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the cheapest assignment."""
    from scipy.optimize import linear_sum_assignment  # takes a tenth of a second to load, and few runs cluster

    rows, columns = linear_sum_assignment(cost.numpy())
    return torch.as_tensor(rows, dtype=torch.long), torch.as_tensor(columns, dtype=torch.long)
