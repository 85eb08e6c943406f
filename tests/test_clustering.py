"""Balanced clustering: recovers blobs, stays balanced, keeps known labels, cannot collapse, fails clearly."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import clustering as cl
from models.cam.functional import effective_classes


def blobs(per_class: int, classes: int = 4, spread: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gaussian blobs on a circle of radius 5 in the first two of six channels, shuffled."""
    random = torch.Generator().manual_seed(seed)
    truth = torch.arange(classes).repeat_interleave(per_class)
    truth = truth[torch.randperm(len(truth), generator=random)]
    angle = 2 * torch.pi * truth / classes
    centre = torch.stack([5 * angle.cos(), 5 * angle.sin(), *[torch.zeros(len(truth))] * 4], dim=1)
    return centre + spread * torch.randn(len(truth), 6, generator=random), truth


def mutual_information(a: Tensor, b: Tensor) -> float:
    """Normalised by the arithmetic mean of the entropies; written out."""
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a.numpy(), b.numpy()), 1.0)
    joint = table / table.sum()
    rows, columns = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    filled = joint > 0
    information = (joint[filled] * np.log(joint[filled] / (rows * columns)[filled])).sum()
    entropies = [-(p[p > 0] * np.log(p[p > 0])).sum() for p in (rows, columns)]
    return float(2 * information / sum(entropies))


def sizes(labels: Tensor, k: int) -> list[int]:
    return torch.bincount(labels, minlength=k).tolist()


def test_pooled_statistics_by_hand() -> None:
    feature = torch.tensor([[[[-1.0, 2.0], [0.0, 6.0]], [[-1.0, -2.0], [-3.0, -4.0]]]])
    out = cl.pooled_statistics(feature)
    assert out.tolist() == [pytest.approx([2.0, 0.0, np.std([0, 2, 0, 6]), 0.0])]
    assert cl.pooled_statistics(feature.bfloat16().requires_grad_()).requires_grad is False


def test_pooled_statistics_see_what_the_plain_mean_cannot() -> None:
    # Instance norm without affine parameters, as at the end of a residual branch: every image has mean 0.
    random = torch.Generator().manual_seed(0)
    feature = torch.rand(4, 3, 8, 8, generator=random) ** torch.arange(1, 5).view(4, 1, 1, 1)
    normed = nn.InstanceNorm2d(3)(feature)
    assert normed.mean(dim=(2, 3)).abs().max() < 1e-6
    assert cl.pooled_statistics(normed).std(dim=0).max() > 0.01


def test_standardise() -> None:
    features, _ = blobs(10)
    features = 1e3 * features.double()
    features[:, 3] = 100 + 1e-9 * features[:, 4]  # constant in float32: 0, not blown-up round-off
    out = cl.standardise(features)
    assert out.mean(dim=0).abs().max() < 1e-12
    expected = torch.ones(6, dtype=torch.float64)
    expected[3] = 0
    torch.testing.assert_close(out.std(dim=0, correction=0), expected)


def test_pca_whiten_decorrelates_and_keeps_the_leading_directions() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(200, 5, generator=random) * torch.tensor([10.0, 5.0, 1.0, 0.1, 0.01]) + 3
    out = cl.pca_whiten(features, dims=3)
    torch.testing.assert_close(out.T @ out / 200, torch.eye(3, dtype=torch.float64))
    for i in range(3):
        assert abs(np.corrcoef(out[:, i].numpy(), features[:, i].numpy())[0, 1]) > 0.95
    torch.testing.assert_close(cl.pca_whiten(features.flip(0), dims=3), out.flip(0))


@pytest.mark.parametrize(("count", "expected"), [(3, 2), (50, 4)])
def test_pca_whiten_stops_at_the_rank(count: int, expected: int) -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(count, 4, generator=random) @ torch.randn(4, 9, generator=random)
    assert cl.pca_whiten(features, dims=32).shape == (count, expected)


@pytest.mark.parametrize("count", [1, 5])
def test_pca_whiten_of_equal_rows(count: int) -> None:
    assert cl.pca_whiten(torch.full((count, 7), 0.3)).tolist() == [[0.0]] * count


@pytest.mark.parametrize("seed", range(5))
def test_blobs_are_recovered_and_balanced(seed: int) -> None:
    features, truth = blobs(25, seed=seed)
    labels, centres = cl.balanced_kmeans(features, 4, seed)
    assert mutual_information(labels, truth) > 0.99
    assert sizes(labels, 4) == [25] * 4
    assert centres.shape == (4, 6)
    for c in range(4):
        torch.testing.assert_close(centres[c], features[labels == c].double().mean(dim=0))


def test_blobs_are_recovered_beyond_the_exact_limit() -> None:
    features, truth = blobs(cl.EXACT_LIMIT // 4 + 25)
    labels, _ = cl.balanced_kmeans(features, 4, 0)
    assert mutual_information(labels, truth) > 0.99
    assert max(sizes(labels, 4)) - min(sizes(labels, 4)) <= 1


@pytest.mark.parametrize(("count", "k"), [(10, 3), (11, 3), (12, 5), (7, 7), (3, 5), (1, 4), (6, 1)])
def test_balance_holds_for_any_size(count: int, k: int) -> None:
    features, _ = blobs(count, classes=1)
    labels, centres = cl.balanced_kmeans(features, k, 0)
    assert labels.shape == (count,)
    assert labels.dtype == torch.long
    assert sorted(set(sizes(labels, k))) in ([count // k], [count // k, count // k + 1])
    assert sum(sizes(labels, k)) == count
    assert centres.isfinite().all()


def cheapest(cost: Tensor) -> float:
    """Over all balanced labellings, by trying every one."""
    points, k = cost.shape
    base, extra = divmod(points, k)
    costs = []
    for labels in itertools.product(range(k), repeat=points):
        counts = [labels.count(c) for c in range(k)]
        if min(counts) >= base and sum(c > base for c in counts) == extra and max(counts) <= base + 1:
            costs.append(sum(cost[i, c].item() for i, c in enumerate(labels)))
    return min(costs)


@pytest.mark.parametrize(("points", "k"), [(6, 3), (7, 3), (8, 3), (2, 3), (5, 2)])
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_exact_assignment_is_the_cheapest_of_all(points: int, k: int, scale: float) -> None:
    cost = scale * torch.rand(points, k, generator=torch.Generator().manual_seed(points), dtype=torch.float64)
    labels = cl._assign_exactly(cost)
    total = cost.gather(1, labels[:, None]).sum().item()
    assert total == pytest.approx(cheapest(cost))


def test_the_approximate_assignment_is_close_to_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    # Skewed: most points would choose cluster 0.
    cost = torch.rand(400, 7, generator=random, dtype=torch.float64) + torch.arange(7) * 0.2
    exact = cost.gather(1, cl._assign(cost)[:, None]).sum().item()
    monkeypatch.setattr(cl, "EXACT_LIMIT", 0)
    labels = cl._assign(cost)
    approximate = cost.gather(1, labels[:, None]).sum().item()
    assert max(sizes(labels, 7)) - min(sizes(labels, 7)) <= 1
    assert exact <= approximate <= 1.01 * exact


def test_equal_seeds_give_equal_labels_and_global_generators_are_left_alone() -> None:
    features, _ = blobs(8, spread=4.0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, centres = cl.balanced_kmeans(features, 3, 5)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    second, again = cl.balanced_kmeans(features, 3, 5)
    assert first.equal(second)
    assert centres.equal(again)


def test_restarts_never_make_it_worse() -> None:
    def inertia(restarts: int) -> float:
        labels, centres = cl.balanced_kmeans(features, 6, 0, restarts=restarts)
        return (features.double() - centres[labels]).square().sum().item()

    features, _ = blobs(10, classes=6, spread=2.0)
    assert inertia(8) <= inertia(1)


def test_identical_images_are_split_evenly() -> None:
    labels, _ = cl.balanced_kmeans(torch.ones(10, 3), 4, 0)
    assert sorted(sizes(labels, 4)) == [2, 2, 3, 3]
    two_points = torch.tensor([[0.0], [1.0]]).repeat_interleave(6, dim=0)
    labels, _ = cl.balanced_kmeans(two_points, 4, 0)  # more clusters than distinct points
    assert sizes(labels, 4) == [3] * 4
    assert not set(labels[:6].tolist()) & set(labels[6:].tolist())


def test_known_labels_are_kept_and_name_their_clusters() -> None:
    features, truth = blobs(20)
    known = torch.full((80,), -1)
    for c in (1, 3):
        known[(truth == c).nonzero()[:3]] = c
    labels, _ = cl.balanced_kmeans(features, 4, 0, known=known)
    assert (labels[known >= 0] == known[known >= 0]).all()
    for c in (1, 3):
        assert (labels[truth == c] == c).double().mean() > 0.8
    assert max(sizes(labels[known < 0], 4)) - min(sizes(labels[known < 0], 4)) <= 1


def test_a_wrong_known_label_is_kept_all_the_same() -> None:
    features, truth = blobs(10)
    known = torch.full((40,), -1)
    known[0] = (truth[0] + 1) % 4
    labels, _ = cl.balanced_kmeans(features, 4, 0, known=known)
    assert labels[0] == known[0]


def test_all_labels_known() -> None:
    features, truth = blobs(5)
    labels, centres = cl.balanced_kmeans(features, 4, 0, known=truth)
    assert labels.equal(truth)
    torch.testing.assert_close(centres[2], features[truth == 2].double().mean(dim=0))


def test_sinkhorn_keeps_confident_predictions_that_are_balanced() -> None:
    truth = torch.arange(4).repeat(6)
    assert cl.sinkhorn_assign(5.0 * F.one_hot(truth, 4).float()).equal(truth)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_sinkhorn_balances_a_biased_head(scale: float) -> None:
    features, truth = blobs(12)
    logits = scale * (-torch.cdist(features, torch.stack([features[truth == c].mean(0) for c in range(4)])))
    logits[:, 2] += 20 * scale  # argmax says 2 for everything
    assert set(logits.argmax(dim=1).tolist()) == {2}
    labels = cl.sinkhorn_assign(logits, iterations=300, temperature=0.05 * scale)
    assert sizes(labels, 4) == [12] * 4
    assert mutual_information(labels, truth) > 0.99


def test_sinkhorn_splits_rows_that_are_all_alike() -> None:
    labels = cl.sinkhorn_assign(torch.tensor([[3.0, 0.0, -3.0]]).repeat(10, 1))
    assert sorted(sizes(labels, 3)) == [3, 3, 4]


def test_self_labels_of_a_collapsing_head_use_one_class_and_clusters_do_not() -> None:
    """Self-training on the head's own argmax from a random start, against balanced k-means on its inputs."""
    torch.manual_seed(0)
    features, truth = blobs(16, spread=0.5)
    # One direction common to all images dwarfs what tells them apart, as with pooled features of a network.
    inputs = F.pad(0.1 * features, (0, 1), value=10.0)
    head = nn.Linear(7, 4)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(200):
        logits = head(inputs)
        loss = F.cross_entropy(logits, logits.argmax(dim=1))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    with torch.no_grad():
        collapsed = effective_classes(head(inputs).softmax(dim=1))
    assert collapsed.item() < 1.1
    labels, _ = cl.balanced_kmeans(inputs, 4, 0)
    assert effective_classes(F.one_hot(labels, 4).float()).item() == pytest.approx(4.0)
    assert mutual_information(labels, truth) > 0.9


def test_match_clusters_undoes_a_permutation() -> None:
    previous = torch.arange(5).repeat(7)
    renamed = torch.tensor([3, 0, 4, 1, 2])[previous]
    assert cl.match_clusters(renamed, previous, 5).equal(previous)


def test_match_clusters_follows_the_majority_and_skips_unknown() -> None:
    previous = torch.tensor([0, 0, 0, 1, 1, 1, -1])
    new = torch.tensor([1, 1, 0, 0, 0, -1, 1])
    assert cl.match_clusters(new, previous, 2).tolist() == [0, 0, 1, 1, 1, -1, 0]


def test_match_clusters_is_the_best_of_all_renamings() -> None:
    random = torch.Generator().manual_seed(0)
    new = torch.randint(0, 4, (60,), generator=random)
    previous = torch.randint(0, 4, (60,), generator=random)
    best = max(int((torch.tensor(names)[new] == previous).sum()) for names in itertools.permutations(range(4)))
    matched = cl.match_clusters(new, previous, 4)
    assert int((matched == previous).sum()) == best


def test_match_clusters_keeps_names_without_evidence_and_fixed_ones_always() -> None:
    new = torch.tensor([0, 1, 2, 2])
    assert cl.match_clusters(new, torch.full((4,), -1), 3).equal(new)
    # A tie: whichever of 1 and 2 takes the name 2, one image keeps its label.
    assert cl.match_clusters(torch.tensor([1, 2]), torch.tensor([2, 2]), 3).tolist() == [1, 2]
    previous = torch.tensor([1, 0, 0, 0])
    assert cl.match_clusters(new, previous, 3).tolist() == [1, 2, 0, 0]
    assert cl.match_clusters(new, previous, 3, fixed=[0]).tolist()[0] == 0
    assert cl.match_clusters(new, previous, 3, fixed=[0, 1, 2]).equal(new)


@pytest.mark.parametrize(
    "call",
    [
        cl.standardise,
        cl.pca_whiten,
        lambda features: cl.balanced_kmeans(features, 2, 0),
        cl.sinkhorn_assign,
    ],
)
def test_bad_features_are_named(call: Callable[[Tensor], object]) -> None:
    features = torch.ones(4, 2)
    features[2, 1] = float("nan")
    with pytest.raises(ValueError, match=r"1 of 4 images are not finite \(first row: 2\)"):
        call(features)
    with pytest.raises(ValueError, match="no images"):
        call(torch.ones(0, 2))


def test_bad_arguments_are_named() -> None:
    features = torch.ones(4, 2)
    with pytest.raises(ValueError, match="k 0"):
        cl.balanced_kmeans(features, 0, 0)
    with pytest.raises(ValueError, match=r"must lie in -1\.\.1"):
        cl.balanced_kmeans(features, 2, 0, known=torch.tensor([0, 1, 2, -1]))
    with pytest.raises(ValueError, match="as many known labels"):
        cl.balanced_kmeans(features, 2, 0, known=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="at least 1"):
        cl.pca_whiten(features, 0)
    with pytest.raises(ValueError, match="temperature 0"):
        cl.sinkhorn_assign(features, temperature=0.0)
    with pytest.raises(ValueError, match="cannot be matched"):
        cl.match_clusters(torch.zeros(3).long(), torch.zeros(4).long(), 2)
