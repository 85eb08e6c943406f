"""Inception against torch-fidelity's own extractor; weights missing, wrong or hostile; the cache by content."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.utils import create_feature_extractor

import util.metrics.inception as inception
from data.images import DomainFormat, Window, decode
from util.metrics.base import ImageSet, MetricError
from util.metrics.features import Features, JudgeExtractor, cached_features
from util.metrics.inception import InceptionExtractor

FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"


class Blank(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """The network without its weights: torch-fidelity's constructor loads them, always."""

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        return None


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that keep the signal alive through all layers, and statistics that are not those of a new net."""
    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    net = Blank("blank", ["2048"], feature_extractor_weights_path=folder / "empty.pth")
    random = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=random)
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=random)  # type: ignore[union-attr]
    torch.save(net.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


@pytest.fixture(scope="session")
def extractor(weights: Path) -> InceptionExtractor:
    return InceptionExtractor(weights, "cpu")


@pytest.fixture(scope="session")
def reference(weights: Path) -> Callable[[np.ndarray], tuple[Tensor, Tensor]]:
    """What torch-fidelity makes of (N, H, W, 3) uint8."""
    layers = ["2048", "logits_unbiased"]
    net = create_feature_extractor(
        "inception-v3-compat", layers, cuda=False, verbose=False, feature_extractor_weights_path=str(weights)
    )
    return lambda pixels: net(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def noise(*shape: int, seed: int = 0, top: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape)


def test_inception_is_that_of_torch_fidelity(
    extractor: InceptionExtractor, reference: Callable[[np.ndarray], tuple[Tensor, Tensor]]
) -> None:
    pixels = noise(2, 40, 52, 3).astype(np.uint8)
    features, logits = extractor(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    expected, scores = reference(pixels)
    assert features.shape == (2, 2048)
    assert logits.shape == (2, 1008)
    assert (expected[0] - expected[1]).abs().max() > 0.01, "features that say nothing would agree with anything"
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(logits, scores)


def test_grey_images_are_repeated(
    extractor: InceptionExtractor, reference: Callable[[np.ndarray], tuple[Tensor, Tensor]]
) -> None:
    pixels = noise(1, 32, 32, 1).astype(np.uint8)
    features, _ = extractor(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(features, reference(pixels.repeat(3, axis=3))[0])
    with pytest.raises(MetricError, match="1 or 3 channels, not 2"):
        extractor(torch.zeros(1, 2, 32, 32))


def test_16_bits_go_through_their_window(
    extractor: InceptionExtractor, reference: Callable[[np.ndarray], tuple[Tensor, Tensor]], tmp_path: Path
) -> None:
    counts = 7000 + noise(36, 32, top=4000).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "thermal.png"), counts)
    # Counts of 0.4 above a step of 8 bits, so that no rounding is a matter of single precision.
    low, high = 7500.0 - 0.4, 10050.0 - 0.4
    image = decode(tmp_path / "thermal.png", 1, DomainFormat(Window(low, high), "uint16"))
    pixels = np.rint(((counts - low) / (high - low)).clip(0, 1) * 255).astype(np.uint8)
    assert 0.1 < (pixels == 0).mean() + (pixels == 255).mean() < 0.9, "some are clipped"
    features, _ = extractor(image[None])
    torch.testing.assert_close(features, reference(pixels[None, :, :, None].repeat(3, axis=3))[0])


def test_name_and_identity_follow_the_weights(extractor: InceptionExtractor, weights: Path, tmp_path: Path) -> None:
    assert extractor.name.startswith("inception-v3-compat (weights "), "not the published ones"
    assert extractor.name.endswith("), TF1 bilinear resize to 299"), "which no number can be compared without"
    state = torch.load(weights, weights_only=True)
    state["fc.bias"][0] += 1
    torch.save(state, tmp_path / "other.pth")
    other = InceptionExtractor(tmp_path / "other.pth")
    assert other.identity != extractor.identity
    assert other.name != extractor.name


# --- where weights come from


def test_without_weights_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MetricError) as caught:
        InceptionExtractor(None)
    message = str(caught.value)
    assert "\n" not in message
    place = str(tmp_path / "hub" / "checkpoints")
    for part in (FILE, place, f"curl -LO {URL})", "--inception_weights PATH", "--features classifier"):
        assert part in message
    assert list(tmp_path.iterdir()) == [], "nothing was fetched"


def test_the_hub_cache_is_looked_into(
    weights: Path, extractor: InceptionExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / FILE).symlink_to(weights)
    assert InceptionExtractor(None).identity == extractor.identity


def test_a_download_is_checked(
    weights: Path, extractor: InceptionExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints"
    monkeypatch.setattr(inception, "URL_INCEPTION_V3", weights.as_uri())
    with pytest.raises(MetricError, match="could not be fetched") as caught:
        InceptionExtractor(None, download=True)
    assert "\n" not in str(caught.value)
    assert list(place.iterdir()) == [], "other weights than the published ones are not kept"
    monkeypatch.setattr(inception, "_PUBLISHED", extractor.identity.split()[1])
    assert InceptionExtractor(None, download=True).name == "inception-v3-compat, TF1 bilinear resize to 299"
    assert [file.name for file in place.iterdir()] == [FILE]
    monkeypatch.setattr(inception, "URL_INCEPTION_V3", (tmp_path / "nowhere").as_uri())
    (place / FILE).unlink()
    with pytest.raises(MetricError, match="--inception_weights PATH"):
        InceptionExtractor(None, download=True)


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_hostile_file_runs_nothing(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    torch.save({"fc.bias": Hostile(ran)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Hostile(ran), protocol=2))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(MetricError, match="plain weights") as caught:
            InceptionExtractor(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not ran.exists()
    torch.load(tmp_path / "zip.pth", weights_only=False)
    assert ran.exists(), "it would have run"


def test_unusable_files_are_named(weights: Path, tmp_path: Path) -> None:
    content = weights.read_bytes()
    (tmp_path / "short.pth").write_bytes(content[: len(content) // 8])
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"fc.bias": torch.zeros(3)}, tmp_path / "other_network.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("short.pth", "empty.pth", "other_network.pth", "list.pth", "missing.pth", "."):
        with pytest.raises(MetricError) as caught:
            InceptionExtractor(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


# --- the cache


class Counter:
    """An extractor by hand: mean and largest value of each image; notes the batches it was given."""

    def __init__(self, identity: str = "v1", logits: bool = True) -> None:
        self.seen: list[int] = []
        self.logits = logits
        self.extractor = JudgeExtractor("by hand", identity, self.run)

    def run(self, images: Tensor) -> Features:
        self.seen.append(len(images))
        flat = images.flatten(1)
        features = torch.stack([flat.mean(1), flat.amax(1)], 1)
        return features, features * 2 if self.logits else None


def image_set(folder: Path, count: int = 5, fmt: DomainFormat | None = None) -> ImageSet:
    """Grey 8 px PNG files, made if they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{n}.png" for n in range(count)]
    for number, file in enumerate(files):
        if not file.exists():
            cv2.imwrite(str(file), noise(8, 8, seed=number).astype(np.uint8))
    form = fmt or DomainFormat(Window(0, 255), "uint8")
    return ImageSet("testB", files, lambda n: decode(files[n], 1, form), [-1] * count)


def grey(file: Path) -> np.ndarray:
    return np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), np.uint8)


def by_hand(images: ImageSet) -> Tensor:
    pixels = [grey(file) / 255 for file in images.files]
    return torch.tensor([[image.mean(), image.max()] for image in pixels], dtype=torch.float32)


def cached(counter: Counter, folder: Path | None) -> Callable[[ImageSet], Features]:
    return cached_features(counter.extractor, folder, batch_size=2, progress=False)


def test_features_are_computed_once_and_kept(tmp_path: Path) -> None:
    images, counter = image_set(tmp_path / "B"), Counter()
    features, logits = cached(counter, tmp_path / "cache")(images)
    torch.testing.assert_close(features, by_hand(images))
    assert counter.seen == [2, 2, 1]
    again = Counter()
    stored, stored_logits = cached(again, tmp_path / "cache")(image_set(tmp_path / "B"))
    assert again.seen == []
    assert logits is not None
    assert stored_logits is not None
    assert torch.equal(stored, features)
    assert torch.equal(stored_logits, logits)


def test_one_pass_for_an_image_set_without_a_folder(tmp_path: Path) -> None:
    images, other, counter = image_set(tmp_path / "B"), image_set(tmp_path / "A", 3), Counter(logits=False)
    get = cached(counter, None)
    first, logits = get(images)
    assert logits is None
    assert len(get(other)[0]) == 3
    assert get(images)[0] is first
    assert counter.seen == [2, 2, 1, 2, 1]


def test_no_logits_stay_no_logits(tmp_path: Path) -> None:
    images = image_set(tmp_path / "B")
    for counter in (Counter(logits=False), Counter(logits=False)):
        assert cached(counter, tmp_path / "cache")(image_set(tmp_path / "B"))[1] is None
    assert counter.seen == []
    assert len(images) == 5


@pytest.mark.parametrize("change", ["pixel", "order", "fewer", "window", "identity"])
def test_what_changes_features_is_computed_anew(tmp_path: Path, change: str) -> None:
    cached(Counter(), tmp_path / "cache")(image_set(tmp_path / "B"))
    images, counter = image_set(tmp_path / "B"), Counter("v2" if change == "identity" else "v1")
    if change == "pixel":
        pixels = grey(images.files[3]).copy()
        pixels[4, 4] ^= 1
        cv2.imwrite(str(images.files[3]), pixels)
    elif change == "order":
        images = images.only([1, 0, 2, 3, 4], "turned")
    elif change == "fewer":
        images = images.only([0, 1, 2, 3], "fewer")
    elif change == "window":
        images = image_set(tmp_path / "B", fmt=DomainFormat(Window(0, 200), "uint8"))
    found, _ = cached(counter, tmp_path / "cache")(images)
    assert sum(counter.seen) == len(images)
    if change not in ("window", "identity"):
        torch.testing.assert_close(found, by_hand(images))
    repeat = Counter(counter.extractor.identity)
    again = images.only(range(len(images)), "another object with another name")
    assert torch.equal(cached(repeat, tmp_path / "cache")(again)[0], found)
    assert repeat.seen == []


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    images = image_set(tmp_path / "B")
    expected, expected_logits = cached(Counter(), tmp_path / "cache")(images)
    (file,) = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    damaged = [b"", b"PK", content[:-30], content[: len(content) // 2], content + b"x", b"\0" * len(content)]
    for place in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[place] ^= 0x41
        damaged.append(bytes(flipped))
    recomputed = 0
    for bad in damaged:
        file.write_bytes(bad)
        counter = Counter()
        found, logits = cached(counter, tmp_path / "cache")(image_set(tmp_path / "B"))
        assert torch.equal(found, expected)
        assert expected_logits is not None
        assert logits is None or torch.equal(logits, expected_logits)
        recomputed += bool(counter.seen)
        if counter.seen:
            assert file.read_bytes() == content, "the damaged file is replaced"
    assert recomputed > len(damaged) // 2, "most bytes matter"


@pytest.mark.parametrize(
    "arrays",
    [
        {"features": np.zeros((4, 2), np.float32)},
        {"features": np.zeros(5, np.float32)},
        {"features": np.full((5, 2), np.nan, np.float32)},
        {"features": np.zeros((5, 2), np.float32), "logits": np.zeros((3, 2), np.float32)},
        {"features": np.array([{}] * 5, dtype=object)},
        {"other": np.zeros((5, 2), np.float32)},
    ],
)
def test_a_sound_file_that_does_not_fit_is_not_believed(tmp_path: Path, arrays: dict[str, Any]) -> None:
    expected, _ = cached(Counter(), tmp_path / "cache")(image_set(tmp_path / "B"))
    (file,) = (tmp_path / "cache").iterdir()
    np.savez(file, **arrays)
    counter = Counter()
    assert torch.equal(cached(counter, tmp_path / "cache")(image_set(tmp_path / "B"))[0], expected)
    assert counter.seen == [2, 2, 1]


def test_a_cache_that_cannot_be_written_costs_only_the_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = image_set(tmp_path / "B")
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    found, _ = cached(Counter(), tmp_path / "cache")(images)
    torch.testing.assert_close(found, by_hand(images))
    warning = capsys.readouterr().err
    assert "WARNING" in warning
    assert str(tmp_path / "cache") in warning


def test_nothing_and_nonsense_are_refused(tmp_path: Path) -> None:
    images = image_set(tmp_path / "B")
    with pytest.raises(MetricError, match="testB has no images"):
        cached(Counter(), None)(images.only([], "testB"))

    def of(values: Sequence[float]) -> JudgeExtractor:
        return JudgeExtractor("broken", "b", lambda batch: (torch.tensor([list(values)] * len(batch)), None))

    with pytest.raises(MetricError, match=r"broken.*NaN or infinite.*testB"):
        cached_features(of([1.0, float("nan")]), tmp_path / "cache", progress=False)(images)
    assert not (tmp_path / "cache").exists()
    flat = JudgeExtractor("flat", "f", lambda batch: (batch.mean((1, 2, 3)), None))
    with pytest.raises(ValueError, match="flat gave"):
        cached_features(flat, None, progress=False)(images)
