"""PatchNCE against the published code's numbers and against a loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses.patch_nce import patch_nce

GOLDEN = Path(__file__).parents[1] / "golden" / "cut_golden.npz"


def rows(count: int, channels: int = 6, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, channels, generator=random, dtype=torch.float64), dim=1)


def by_loop(query: Tensor, key: Tensor, images: int, temperature: float, all_negatives: bool) -> list[float]:
    """-log(e^positive / (e^positive + sum of the others)), the own position's -10 among the others."""
    q, k = query.detach().numpy(), key.detach().numpy()
    patches = len(q) // images
    losses = []
    for i in range(len(q)):
        image = i // patches
        pool = range(len(q)) if all_negatives else range(image * patches, (image + 1) * patches)
        logits = [q[i] @ k[i]] + [-10.0 if j == i else q[i] @ k[j] for j in pool]
        scaled = np.array(logits) / temperature
        losses.append(float(np.log(np.exp(scaled - scaled.max()).sum()) + scaled.max() - scaled[0]))
    return losses


@pytest.mark.parametrize(("name", "all_negatives"), [("nce", False), ("nce_all", True)])
def test_golden(name: str, all_negatives: bool) -> None:
    golden = np.load(GOLDEN)
    query, key = torch.from_numpy(golden["q"]), torch.from_numpy(golden["k"])
    out = patch_nce(query, key, images=2, temperature=0.07, all_negatives=all_negatives)
    np.testing.assert_allclose(out.numpy(), golden[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("all_negatives", [False, True])
@pytest.mark.parametrize(("count", "images"), [(12, 3), (5, 1), (4, 4)])
def test_loop(count: int, images: int, all_negatives: bool) -> None:
    query, key = rows(count), rows(count, seed=1)
    out = patch_nce(query, key, images, 0.3, all_negatives)
    assert out.shape == (count,)
    assert out.tolist() == pytest.approx(by_loop(query, key, images, 0.3, all_negatives), abs=1e-10)


def test_images_are_independent_unless_asked() -> None:
    query, key = rows(8), rows(8, seed=1)
    alone = patch_nce(query[:4], key[:4], 1)
    torch.testing.assert_close(patch_nce(query, key, 2)[:4], alone)
    assert (patch_nce(query, key, 2, all_negatives=True)[:4] > alone).all()


def test_only_the_query_gets_gradient() -> None:
    query, key = rows(6).requires_grad_(), rows(6, seed=1).requires_grad_()
    torch.autograd.backward(patch_nce(query, key, 2).mean())
    assert key.grad is None
    assert query.grad is not None
    assert (query.grad.abs().sum(dim=1) > 0).all()


def test_gradcheck() -> None:
    query, key = rows(6).requires_grad_(), rows(6, seed=1)
    assert torch.autograd.gradcheck(lambda q: patch_nce(q, key, 2, 0.5), query)


def test_matching_patches_beat_shuffled_ones() -> None:
    key = rows(16, 32)
    assert patch_nce(key, key, 1).max() < patch_nce(key.roll(1, 0), key, 1).min()


def test_a_single_patch_has_nothing_to_be_confused_with() -> None:
    out = patch_nce(rows(2), rows(2, seed=1), 2)
    assert out.abs().max() < 1e-10


def test_bfloat16_and_autocast_are_computed_in_float32() -> None:
    query, key = rows(8).bfloat16(), rows(8, seed=1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = patch_nce(query, key, 2)
    assert out.dtype == torch.float32
    assert out.equal(patch_nce(query.float(), key.float(), 2))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="7 patches cannot be split over 2 images"):
        patch_nce(rows(7), rows(7), 2)
    with pytest.raises(ValueError, match="rows, channels"):
        patch_nce(rows(4), rows(6), 2)
