"""Faithfulness of maps: sparse solutions by scipy, numbers by grad-cam, and cases by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from scipy.stats import spearmanr
from torch import Tensor, nn

from tests.cam.tiny_networks import TinyNet, filled, pictures
from tests.metrics.make_golden_faithfulness import CLASSES, FILE, PERCENTILES, smooth_maps
from util.metrics import faithfulness as by
from util.metrics.imputation import Road, imputed, road, with_noise
from util.metrics.localisation import box_around, box_iou, box_of, energy, grown, iou, pointing
from util.metrics.randomisation import cascade, map_ssim, rank_correlation, sanity

Arrays = dict[str, np.ndarray[Any, Any]]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def golden() -> Arrays:
    with np.load(FILE) as file:
        return dict(file)


@pytest.fixture(scope="module")
def score(golden: Arrays) -> by.Score:
    """Probability of CLASSES by the network that grad-cam was given."""
    net = TinyNet().eval()
    net.load_state_dict({k.removeprefix("weights/"): torch.from_numpy(v) for k, v in golden.items() if "weights/" in k})
    return probability(net)


def probability(net: nn.Module) -> by.Score:
    def score(images: Tensor) -> Tensor:
        wanted = torch.tensor(CLASSES).repeat(len(images) // len(CLASSES))
        with torch.no_grad():
            found: Tensor = net(images).softmax(1).gather(1, wanted[:, None])[:, 0]
        return found

    return score


# --- imputation


def by_scipy(image: Tensor, missing: Tensor) -> Tensor:
    """One equation a missing pixel, written out and solved directly: (C, H, W), (H, W) -> (C, H, W)."""
    height, width = missing.shape
    places = [tuple(place) for place in missing.nonzero().tolist()]
    number = {place: i for i, place in enumerate(places)}
    system, right = lil_matrix((len(places), len(places))), np.zeros((len(places), len(image)))
    for i, (y, x) in enumerate(places):
        for dy, dx in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)):
            place = (y + dy, x + dx)
            if not (0 <= place[0] < height and 0 <= place[1] < width):
                continue
            weight = 1 / 12 if dy and dx else 1 / 6
            system[i, i] += weight
            if place in number:
                system[i, number[place]] -= weight
            else:
                right[i] += weight * image[:, place[0], place[1]].numpy()
    result = image.clone()
    result[:, missing] = torch.from_numpy(np.asarray(spsolve(system.tocsc(), right)).reshape(len(places), -1)).T
    return result


def masks() -> Iterator[Tensor]:
    yield noise(13, 17) < 0.5
    yield noise(13, 17, seed=1) < 0.97  # few are known
    hole = torch.zeros(13, 17, dtype=torch.bool)
    hole[:, :12] = True  # a wide one, at three borders
    yield hole
    alone = torch.zeros(13, 17, dtype=torch.bool)
    alone[0, 0] = True
    yield alone
    yield ~alone  # one known pixel: everything takes its value


def test_imputed_pixels_are_the_sparse_solution() -> None:
    missing = torch.stack(list(masks()))
    images = noise(len(missing), 3, 13, 17, seed=2)
    found = imputed(images, missing, tolerance=1e-13)
    for image, mask, one in zip(images, missing, found, strict=True):
        torch.testing.assert_close(one, by_scipy(image, mask), atol=1e-10, rtol=0)
    torch.testing.assert_close(found[-1], images[-1][:, :1, :1].expand(-1, 13, 17), atol=1e-10, rtol=0)


def test_the_usual_tolerance_is_below_the_noise() -> None:
    missing = torch.stack([noise(64, 64) < 0.9, smooth_maps(1, 64)[0] > 0.2])
    images = noise(2, 1, 64, 64, seed=3, dtype=torch.float32)
    exact = imputed(images.double(), missing, tolerance=1e-13)
    assert (imputed(images, missing) - exact).abs().max() < 3e-3


def test_an_image_is_imputed_alone_as_in_a_batch() -> None:
    missing = torch.stack(list(masks()))
    images = noise(len(missing), 2, 13, 17, seed=4, dtype=torch.float32)
    together = imputed(images, missing)
    for number in range(len(missing)):
        alone = imputed(images[number : number + 1], missing[number : number + 1])[0]
        torch.testing.assert_close(together[number], alone, atol=1e-6, rtol=0)


def test_known_pixels_stay_and_nothing_missing_changes_nothing() -> None:
    images, missing = noise(1, 1, 9, 9), noise(1, 9, 9, seed=1) < 0.5
    found = imputed(images, missing)
    assert torch.equal(found[:, 0][~missing], images[:, 0][~missing])
    assert torch.equal(imputed(images, torch.zeros_like(missing)), images)


def test_an_image_of_which_nothing_is_known_is_refused() -> None:
    with pytest.raises(ValueError, match="every pixel of an image is missing"):
        imputed(noise(2, 1, 4, 4), torch.tensor([False, True])[:, None, None].expand(2, 4, 4))


def test_noise_is_on_missing_pixels_only_and_the_same_for_all() -> None:
    images, missing = torch.zeros(2, 1, 40, 40), noise(2, 40, 40) < 0.5
    found = with_noise(images, missing, 0.01, 3, 1)
    assert (found[:, 0][~missing] == 0).all()
    assert found[:, 0][missing].std() == pytest.approx(0.01, rel=0.1)
    both = missing.all(0)
    assert torch.equal(found[0, 0][both], found[1, 0][both])
    assert torch.equal(found, with_noise(images, missing, 0.01, 3, 1))
    assert not torch.equal(found, with_noise(images, missing, 0.01, 3, 2))


# --- as grad-cam


@pytest.mark.parametrize("percentile", PERCENTILES)
@pytest.mark.parametrize("first", ["morf", "lerf"])
def test_imputed_images_are_those_of_grad_cam(golden: Arrays, first: str, percentile: int) -> None:
    images, maps = torch.from_numpy(golden["images"]), torch.from_numpy(golden["maps"])
    places, pixels = by.ranks(maps), maps[0].numel()
    count = 1 + int((1 - percentile / 100) * (pixels - 1))
    missing = places < count if first == "morf" else places >= pixels - count
    expected = torch.from_numpy(golden[f"{first}/{percentile}/images"])
    torch.testing.assert_close(imputed(images, missing, tolerance=1e-6), expected, atol=1e-4, rtol=0)


def test_road_is_that_of_grad_cam(golden: Arrays, score: by.Score) -> None:
    images, places = torch.from_numpy(golden["images"]), by.ranks(torch.from_numpy(golden["maps"]))
    found = road(images, places, score, shares=[1 - p / 100 for p in PERCENTILES], noise=0)
    expected = Road(
        *(torch.from_numpy(np.mean([golden[f"{n}/{p}"] for p in PERCENTILES], 0)) for n in ("morf", "lerf"))
    )
    torch.testing.assert_close(found.morf, expected.morf, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.lerf, expected.lerf, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.combined, expected.combined, atol=1e-4, rtol=0)
    assert found.combined.abs().max() > 0.01


def test_drop_and_increase_are_those_of_grad_cam(golden: Arrays, score: by.Score) -> None:
    """Theirs is not divided by the probability."""
    images, maps = torch.from_numpy(golden["images"]), torch.from_numpy(golden["maps"])
    before, after = score(images), score(by.seen_through(images, maps))
    torch.testing.assert_close(by.drop(before, after) * before, torch.from_numpy(golden["drop"]), atol=1e-6, rtol=0)
    assert by.increase(before, after).tolist() == golden["increase"].tolist()


# --- road


def test_road_of_a_map_that_is_right_wrong_or_nothing() -> None:
    """A score that reads one corner: the right map keeps it last, the wrong one first."""
    images = noise(1, 1, 16, 16, dtype=torch.float32) * 0.1
    images[..., :4, :4] += 0.9
    right = torch.zeros(1, 16, 16)
    right[:, :4, :4] = 1

    def score(rows: Tensor) -> Tensor:
        return rows[:, 0, :4, :4].mean((1, 2))

    found = {name: road(images, by.ranks(one), score) for name, one in (("right", right), ("wrong", 1 - right))}
    assert found["right"].combined > 0.25
    assert found["wrong"].combined < -0.25
    torch.testing.assert_close(found["right"].lerf, score(images).expand(1), atol=0.05, rtol=0)
    nothing = road(images, by.random_ranks(right), score)
    assert nothing.combined.abs() < 0.1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_must_leave_something(share: float) -> None:
    with pytest.raises(ValueError, match="each must be in"):
        road(noise(1, 1, 4, 4), by.ranks(noise(1, 4, 4)), lambda rows: rows.mean((1, 2, 3)), shares=[share])


# --- orders and curves


def test_ranks_begin_with_the_strongest() -> None:
    maps = torch.tensor([[[0.1, 0.7], [0.9, 0.3]], [[4.0, 3.0], [2.0, 1.0]]])
    assert by.ranks(maps).tolist() == [[[3, 1], [0, 2]], [[0, 1], [2, 3]]]


def test_equal_pixels_go_in_no_direction() -> None:
    places = by.ranks(torch.zeros(2, 20, 20), seed=1)
    assert sorted(places[0].flatten().tolist()) == list(range(400))
    assert torch.equal(places[0], places[1])
    assert abs(float(places[0, :10].double().mean()) - 199.5) < 20  # by rows: 99.5
    assert not torch.equal(places, by.ranks(torch.zeros(2, 20, 20), seed=2))
    assert not torch.equal(*by.random_ranks(torch.zeros(2, 20, 20)))


def test_curves_of_a_score_that_adds_pixels_up() -> None:
    """4 pixels of 0.4, 0.3, 0.2, 0.1 deleted in 4 steps: 1, 0.6, 0.3, 0.1, 0."""
    images = torch.tensor([[[[0.4, 0.3], [0.2, 0.1]]]]).double()

    def score(rows: Tensor) -> Tensor:
        return rows.sum((1, 2, 3))

    places = by.ranks(images[:, 0])
    values = by.curve(images, torch.zeros_like(images), places, score, steps=4)
    torch.testing.assert_close(values, torch.tensor([[1, 0.6, 0.3, 0.1, 0]]).double())
    assert by.area(values).item() == pytest.approx((1 / 2 + 0.6 + 0.3 + 0.1 + 0) / 4)
    assert by.deletion(images, places, score, steps=4).item() == pytest.approx(0.375)
    assert by.deletion(images, places, score, blank=1.0, steps=1).item() == pytest.approx((1 + 4) / 2)


def test_insertion_begins_blurred_and_ends_sharp() -> None:
    images = noise(2, 1, 32, 32, dtype=torch.float32)
    seen: list[Tensor] = []

    def score(rows: Tensor) -> Tensor:
        seen.extend(rows)
        return rows.flatten(1).var(1)

    found = by.insertion(images, by.ranks(images[:, 0]), score, steps=2)
    torch.testing.assert_close(torch.stack(seen[:2]), by.blurred(images))
    torch.testing.assert_close(torch.stack(seen[4:]), images)
    assert found.shape == (2,)
    assert by.blurred(images).var() < 0.2 * images.var()


def test_rows_keep_their_images_whatever_a_call_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    images, calls = noise(3, 1, 8, 8), []
    offsets = torch.tensor([0.0, 10.0, 20.0]).double()

    def score(rows: Tensor) -> Tensor:
        calls.append(len(rows))
        return rows.mean((1, 2, 3)) + offsets.repeat(len(rows) // 3)

    places = by.ranks(images[:, 0])
    whole = by.curve(images, torch.zeros_like(images), places, score, 4)
    assert calls == [15]
    monkeypatch.setattr(by, "ROWS", 7)
    torch.testing.assert_close(by.curve(images, torch.zeros_like(images), places, score, 4), whole)
    assert calls[1:] == [6, 6, 3]
    torch.testing.assert_close(whole[:, -1], offsets)


# --- the image seen through its map


def test_drop_increase_and_their_mean_by_hand() -> None:
    before, after = torch.tensor([0.8, 0.5, 0.0]), torch.tensor([0.2, 0.6, 0.1])
    torch.testing.assert_close(by.drop(before, after), torch.tensor([0.75, 0.0, 0.0]))
    assert by.increase(before, after).tolist() == [0, 1, 1]
    found = by.adcc(torch.tensor([0.5, 1.0, 0.0]), torch.tensor([0.5, 0.0, 0.2]), torch.tensor([0.75, 0.0, 0.1]))
    torch.testing.assert_close(found, torch.tensor([3 / (2 + 2 + 4), 1.0, 0.0]))


def test_coherency_and_complexity_by_hand() -> None:
    maps = smooth_maps(2, 8)
    again = torch.stack([maps[0], 1 - maps[1]])
    torch.testing.assert_close(by.coherency(maps, again), torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)
    assert by.coherency(maps[:1], torch.zeros(1, 8, 8)).item() == 0.5
    half = torch.zeros(1, 8, 8)
    half[:, :4] = 1
    assert by.complexity(half).item() == 0.5


def test_an_image_fades_to_what_is_blank() -> None:
    images, maps = torch.full((1, 2, 1, 3), 0.8), torch.tensor([[[0.0, 0.5, 1.0]]])
    torch.testing.assert_close(by.seen_through(images, maps)[0, 1], torch.tensor([[0.0, 0.4, 0.8]]))
    torch.testing.assert_close(by.seen_through(images, maps, -1.0)[0, 0], torch.tensor([[-1.0, -0.1, 0.8]]))


# --- where a map lies


def target(rows: slice, columns: slice) -> np.ndarray[Any, np.dtype[np.float64]]:
    found = np.zeros((10, 12))
    found[rows, columns] = 1
    return found


def heat(*spots: tuple[int, int, float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    found = np.zeros((10, 12), np.float32)
    for y, x, value in spots:
        found[y, x] = value
    return found


def test_pointing_within_a_tolerance() -> None:
    where, spot = target(slice(2, 5), slice(2, 5)), heat((7, 7, 1.0))  # 3 rows and 3 columns off the corner
    assert pointing(spot, where) == 0
    assert pointing(spot, where, tolerance=4.24) == 0
    assert pointing(spot, where, tolerance=4.25) == 1  # the square root of 18
    assert pointing(heat((3, 7, 1.0)), where, tolerance=3) == 1
    assert pointing(heat((4, 4, 1.0)), where) == 1
    assert pointing(heat(), where, tolerance=99) == 0
    assert pointing(heat((4, 4, 1.0), (9, 9, 1.0)), where) == 0.5
    assert grown(target(slice(0), slice(0)), 3).sum() == 0


def test_energy_by_hand() -> None:
    assert energy(heat((2, 2, 3.0), (9, 9, 1.0)), target(slice(2, 5), slice(2, 5))) == 0.75
    assert energy(heat(), target(slice(2, 5), slice(2, 5))) == 0


def test_the_box_of_a_map_is_around_its_largest_part() -> None:
    spots = heat((1, 1, 0.5), (2, 2, 1.0), (2, 3, 0.3), (8, 9, 0.9), (5, 5, 0.1))
    assert box_of(spots) == (1, 1, 4, 3)  # joined across a corner; 0.1 is below a fifth
    assert box_of(spots, 0.6) in [(2, 2, 3, 3), (9, 8, 10, 9)]
    assert box_of(heat()) is None
    assert box_iou(spots, [(9, 8, 10, 9), (2, 1, 6, 3)]) == pytest.approx(4 / 10)
    assert box_iou(heat(), [(0, 0, 1, 1)]) == 0
    with pytest.raises(ValueError, match="no rectangle"):
        box_iou(spots, [])


def test_iou_and_the_box_of_a_target() -> None:
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou((0, 0, 2, 2), (2, 0, 4, 2)) == 0
    assert box_around(target(slice(2, 5), slice(3, 7))) == (3, 2, 7, 5)


# --- sanity check


def test_rank_correlation_is_scipys_with_equal_values() -> None:
    a, b = (noise(4, 32, 32, seed=seed) for seed in (0, 1))
    a, b = (a + b).mul(4).round(), b.mul(6).round()
    expected = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(rank_correlation(a, b), torch.tensor(expected), atol=1e-9, rtol=0)
    torch.testing.assert_close(rank_correlation(a, a.exp()), torch.ones(4).double())
    assert rank_correlation(a, torch.zeros_like(a)).tolist() == [0, 0, 0, 0]


def test_ssim_of_maps() -> None:
    maps = smooth_maps(3, 48)
    torch.testing.assert_close(map_ssim(maps, maps), torch.ones(3))
    assert (map_ssim(maps, 1 - maps) < 0.2).all()


def test_layers_forget_from_the_last_to_the_first() -> None:
    net, images = filled(TinyNet(deep=True)).train(), pictures(2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    seen = []
    for name, count, changed in cascade(net, images, stages=3):
        now = changed.state_dict()
        seen.append((name, count, {key.rpartition(".")[0] for key in now if not torch.equal(now[key], before[key])}))
    layers = ["classify", "more.0", "features.3", "features.1", "features.0"]  # each before what calls it
    assert seen == [(layers[n - 1], n, set(layers[:n])) for n in (1, 3, 5)]
    for key, value in now.items():  # shuffled, not drawn anew; running statistics stay
        assert torch.equal(value.flatten().sort().values, before[key].flatten().sort().values)
        assert "running" not in key or torch.equal(value, before[key])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training


def test_weights_that_no_call_shows_forget_last() -> None:
    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)

        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.linear(self.first(images).mean((2, 3)), self.second.weight, self.second.bias)

    net = filled(Direct())
    (name, count, changed), *others = cascade(net, pictures(1))
    assert (name, count, others) == ("first", 1, [])
    assert not torch.equal(changed.get_submodule("second").weight, net.second.weight)  # type: ignore[arg-type]


def test_the_sanity_check_finds_a_map_that_ignores_the_network() -> None:
    net, images = filled(TinyNet()), pictures(3, size=32)

    def of_image(_: nn.Module) -> Tensor:
        return images.abs().mean(1)

    def of_net(other: nn.Module) -> Tensor:
        features: Callable[[Tensor], Tensor] = other.features  # type: ignore[assignment]
        with torch.no_grad():
            return (features(images) * other.classify.weight[0][None, :, None, None]).sum(1)  # type: ignore[index,union-attr]

    blind, real = sanity(net, images, of_image), sanity(net, images, of_net)
    assert [stage.layer for stage in blind] == ["classify", "features.3", "features.1", "features.0"]
    assert all((stage.rank_correlation > 0.999).all() and (stage.ssim > 0.999).all() for stage in blind)
    assert all((stage.rank_correlation < 0.9).all() for stage in real)
