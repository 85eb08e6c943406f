"""CUT's preprocess words, stage by stage: against Pillow, and against places and sizes worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data.transforms import WORDS, Preprocess, crop_to, pad_to_multiple, resize_to
from util.seeding import generator


def picture(height: int, width: int, channels: int = 1) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


def coordinates(height: int, width: int) -> Tensor:
    """(2, H, W): each pixel holds its own row and column, over 1000: a crop tells where it was taken."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns]).float() / 1000


def corner(crop: Tensor) -> tuple[int, int]:
    top, left = (crop[:, 0, 0] * 1000).round().int().tolist()
    return top, left


def make(words: str, load: int | tuple[int, int] = 40, crop: int | tuple[int, int] = 32, **other: object) -> Preprocess:
    def pair(size: int | tuple[int, int]) -> tuple[int, int]:
        return (size, size) if isinstance(size, int) else size

    flip, multiple = bool(other.get("flip", False)), other.get("multiple", 4)
    assert isinstance(multiple, int)
    return Preprocess.parse(words, pair(load), pair(crop), flip, multiple)


def rng(i: int = 0) -> torch.Generator:
    return generator(0, "augment", i)


# --- resizing


@pytest.mark.parametrize(("height", "width"), [(64, 48), (20, 30), (100, 100)])
def test_resize_equals_pillow(height: int, width: int) -> None:
    image = picture(height, width)
    got = make("resize", load=(40, 36))(image, rng())
    want = Image.fromarray(image[0].numpy()).resize((36, 40), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(got[0].numpy(), np.asarray(want).clip(0, 1), atol=2e-6)


def test_resize_colour_and_edges_stay_in_range() -> None:
    """Bicubic overshoots at a hard edge; the result is clamped, and each channel is treated alike."""
    image = torch.zeros(3, 16, 16)
    image[1, :, 8:] = 1
    raw = torch.nn.functional.interpolate(image[None], (32, 32), mode="bicubic", antialias=True)
    assert raw.max() > 1.01
    got = make("resize", load=32)(image, rng())
    assert got.min() == 0
    assert got.max() == 1
    assert got[0].max() == 0


@pytest.mark.parametrize(
    ("size", "load", "crop", "want"),
    [
        ((100, 50), 40, 32, (80, 40)),  # aspect kept
        ((50, 100), 40, 32, (32, 40)),  # 20 high would be below the crop
        ((60, 40), 40, 32, (60, 40)),  # already there
        ((50, 25), (99, 60), 32, (120, 60)),  # load_size's width counts, its height does not
    ],
)
def test_scale_width(size: tuple[int, int], load: int | tuple[int, int], crop: int, want: tuple[int, int]) -> None:
    assert make("scale_width", load, crop)(picture(*size), rng()).shape[-2:] == want


@pytest.mark.parametrize(
    ("size", "load", "want"),
    [
        ((20, 30), 40, (40, 60)),  # enlarged by the short side
        ((30, 20), 40, (60, 40)),
        ((100, 60), 40, (100, 60)),  # never reduced
        ((20, 20), (40, 64), (64, 64)),  # both sides of load_size are covered
    ],
)
def test_scale_shortside(size: tuple[int, int], load: int | tuple[int, int], want: tuple[int, int]) -> None:
    assert make("scale_shortside", load)(picture(*size), rng()).shape[-2:] == want


@pytest.mark.parametrize(("side", "want"), [(64, 64), (65, 64), (67, 68), (1, 4), (5, 4), (7, 8), (66, 64), (70, 72)])
def test_nearest_multiple(side: int, want: int) -> None:
    """Ties go to the even multiple (66/4 = 16.5 -> 16, 70/4 = 17.5 -> 18), as Python's round and CUT do."""
    assert make("none")(picture(side, 64), rng()).shape == (1, want, 64)
    assert make("none", multiple=1)(picture(side, 64), rng()).shape == (1, side, 64)


def test_none_changes_nothing_where_sizes_fit() -> None:
    image = picture(36, 44, 3)
    assert torch.equal(make("none")(image, rng()), image)


def test_zoom() -> None:
    sizes = [make("zoom", crop=16, multiple=1)(picture(100, 200), rng(i)).shape[-2:] for i in range(200)]
    heights, widths = np.array(sizes).T
    assert heights.min() < 83
    assert heights.max() > 97
    assert ((heights >= 80) & (heights <= 100)).all()
    assert ((widths >= 160) & (widths <= 200)).all()
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.25
    assert make("zoom", crop=(100, 30), multiple=1)(picture(100, 100), rng()).shape[1] == 100


# --- cutting


def test_crop_is_uniform_over_all_positions() -> None:
    crop = make("crop", crop=(32, 36))
    source = coordinates(34, 37)
    places = [corner(crop(source, rng(i))) for i in range(300)]
    assert set(places) == {(y, x) for y in range(3) for x in range(2)}
    counts = np.array([places.count(place) for place in sorted(set(places))])
    assert ((counts - 50) ** 2 / 50).sum() < 20.5  # chi-squared, 5 degrees of freedom, p = 0.001
    top, left = corner(got := crop(source, rng()))
    assert torch.equal(got, source[:, top : top + 32, left : left + 36])


def test_resize_and_crop() -> None:
    image = picture(50, 70)
    resized = make("resize")(image, rng())
    got = make("resize_and_crop")(image, rng())
    assert got.shape == (1, 32, 32)
    assert any(torch.equal(got, resized[:, y : y + 32, x : x + 32]) for y in range(9) for x in range(9))


@pytest.mark.parametrize("words", ["crop", "patch", "scale_width_and_crop", "zoom_and_patch", "zoom_and_crop"])
@pytest.mark.parametrize("size", [(10, 9), (31, 200), (32, 32), (300, 20), (7, 64)])
def test_small_images_still_fill_a_batch(words: str, size: tuple[int, int]) -> None:
    assert make(words)(picture(*size), rng(), patch_index=3).shape == (1, 32, 32)


def test_small_images_are_enlarged_aspect_kept() -> None:
    """16 x 24 covers 32 x 32 as 32 x 48: the rows are then whole, the columns a part."""
    image = picture(16, 24)
    whole = resize_to(image[None], (32, 48), 0, 1)[0]
    got = make("crop")(image, rng())
    assert any(torch.equal(got, whole[:, :, x : x + 32]) for x in range(17))


def test_patches_tile_the_image() -> None:
    """100 x 70 holds 3 x 2 tiles of 32: six indices, six places, down the columns, then again."""
    patch, source = make("patch"), coordinates(100, 70)
    for draw in range(5):
        corners = [corner(patch(source, rng(draw), i)) for i in range(7)]
        top, left = corners[0]
        assert 0 <= top <= 4
        assert 0 <= left <= 6
        assert corners[:6] == [(top + 32 * row, left + 32 * column) for column in range(2) for row in range(3)]
        assert corners[6] == corners[0]
    assert len({corner(patch(source, rng(i), 0)) for i in range(40)}) > 15


def test_trim_cuts_only_longer_sides() -> None:
    trim = make("trim", multiple=1)
    assert trim(picture(20, 50), rng()).shape == (1, 20, 32)
    assert trim(picture(50, 32), rng()).shape == (1, 32, 32)
    assert trim(picture(9, 9), rng()).shape == (1, 9, 9)
    assert len({corner(trim(coordinates(33, 40), rng(i))) for i in range(60)}) > 12


def test_crop_that_is_no_multiple() -> None:
    assert make("resize_and_crop", load=40, crop=30)(picture(50, 50), rng()).shape == (1, 32, 32)


# --- randomness


def test_flip() -> None:
    image = picture(32, 32)
    results = [make("none", flip=True)(image, rng(i)) for i in range(200)]
    mirrored = [torch.equal(result, image.flip(-1)) for result in results]
    assert all(m or torch.equal(result, image) for m, result in zip(mirrored, results, strict=True))
    assert 70 < sum(mirrored) < 130
    assert all(torch.equal(make("none")(image, rng(i)), image) for i in range(20))


def test_same_generator_same_result() -> None:
    stages = make("scale_shortside_and_zoom_and_crop", load=48, flip=True)
    image = picture(40, 60, 3)
    assert torch.equal(stages(image, rng(1)), stages(image, rng(1)))
    assert not torch.equal(stages(image, rng(1)), stages(image, rng(2)))


def test_draws_depend_on_neither_size_nor_words() -> None:
    """The generator always ends at the same place; a mirrored sample is mirrored under every word."""
    states = set()
    for words in ("none", "resize_and_crop", "zoom_and_patch", "trim"):
        for size in ((16, 16), (80, 55)):
            draws = rng(3)
            make(words, flip=True)(picture(*size), draws)
            states.add(torch.rand(1, generator=draws).item())
    assert len(states) == 1
    ramp = torch.linspace(0, 1, 80).expand(1, 80, 80)
    for i in range(8):
        directions = {
            bool((result := make(words, flip=True)(ramp, rng(i)))[0, 0, 0] > result[0, 0, -1])
            for words in ("none", "resize_and_crop", "crop", "patch")
        }
        assert len(directions) == 1


# --- parsing and inference


def test_parse() -> None:
    assert make("resize_and_crop").words == ("resize", "crop")
    assert make("scale_shortside_and_zoom_and_crop").words == ("scale_shortside", "zoom", "crop")
    assert make("scale_width").words == ("scale_width",)
    assert make("none").words == ("none",)


@pytest.mark.parametrize("text", ["rezise_and_crop", "resize_crop", "", "resize and crop", "crop_and_"])
def test_unknown_word(text: str) -> None:
    with pytest.raises(ValueError, match="--preprocess") as caught:
        make(text)
    assert all(word in str(caught.value) for word in WORDS)


@pytest.mark.parametrize("text", ["resize_and_scale_width", "none_and_crop", "scale_width_and_scale_shortside"])
def test_contradictory_words(text: str) -> None:
    with pytest.raises(ValueError, match="--preprocess"):
        make(text)


@pytest.mark.parametrize(
    "words", ["resize_and_crop", "scale_shortside_and_crop", "resize_and_patch", "scale_width_and_patch"]
)
def test_crop_larger_than_load(words: str) -> None:
    with pytest.raises(ValueError, match=r"--crop_size 64 is larger than --load_size 40 48.*raise --load_size"):
        make(words, load=(40, 48), crop=64)


@pytest.mark.parametrize(
    ("words", "load"),
    [("crop", 10), ("zoom_and_patch", 10), ("none", 10), ("resize", 10), ("scale_width_and_crop", (10, 64))],
)
def test_crop_may_exceed_a_load_size_that_has_no_say(words: str, load: int | tuple[int, int]) -> None:
    make(words, load=load, crop=64)


def test_sizes_start_at_one() -> None:
    with pytest.raises(ValueError, match="--crop_size 0"):
        make("none", crop=0)


def test_for_inference() -> None:
    train = make("resize_and_crop", load=40, crop=(32, 36), flip=True)
    test = train.for_inference()
    assert test == Preprocess(("resize",), (32, 36), (32, 36), flip=False, multiple=4)
    image = picture(50, 70)
    assert torch.equal(test(image, rng(0)), test(image, rng(1)))
    assert test(image, rng()).shape == (1, 32, 36)
    for words in ("zoom_and_crop", "patch", "trim", "none"):
        assert torch.equal(make(words, flip=True).for_inference()(image[:, :48, :64], rng()), image[:, :48, :64])
    assert make("scale_width_and_crop").for_inference()(image, rng()).shape == (1, 32, 32)


# --- padding


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (63, 32), (16, 17), (1, 1), (2, 5), (3, 100)])
def test_pad_and_crop_back(size: tuple[int, int]) -> None:
    x = picture(*size, channels=2)[None]
    padded, back = pad_to_multiple(x, 16)
    assert back == size
    assert padded.shape[-2] % 16 == padded.shape[-1] % 16 == 0
    assert padded.shape[-2] - size[0] < 16
    assert torch.equal(crop_to(padded, back), x)


def test_pad_reflects_or_replicates() -> None:
    x = torch.arange(6.0).view(1, 1, 1, 6)
    padded, _ = pad_to_multiple(x, 4)
    assert padded[0, 0].tolist() == [[0, 1, 2, 3, 4, 5, 4, 3]] * 4
    short, _ = pad_to_multiple(x[..., :3], 8)
    assert short[0, 0, 0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2]


def test_crop_to_refuses_to_grow() -> None:
    with pytest.raises(ValueError, match="cannot be cropped"):
        crop_to(torch.zeros(1, 1, 8, 8), (9, 8))


def test_resize_to() -> None:
    x = torch.rand(2, 3, 10, 12) * 2 - 1
    same = resize_to(x, (10, 12), -1, 1)
    assert torch.equal(same, x)
    step = torch.cat([-torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)], dim=-1)
    big = resize_to(step, (24, 40), -1, 1)
    assert big.shape == (1, 1, 24, 40)
    assert big.min() == -1
    assert big.max() == 1


# --- what follows from sizes alone


def test_sizes_are_told_before_any_image_is_read() -> None:
    for words in ("none", "resize", "scale_width", "scale_shortside", "crop", "trim", "resize_and_crop", "patch"):
        process = make(words, load=(40, 36), crop=(32, 28))
        for size in ((20, 30), (64, 48), (100, 39), (33, 90)):
            assert process.size_of(*size) == process(picture(*size), rng()).shape[-2:], (words, size)
    assert make("resize_and_zoom").size_of(50, 50) is None  # drawn
    assert make("zoom_and_crop").size_of(50, 50) == (32, 32)


def test_what_scale_width_stretches() -> None:
    process = make("scale_width_and_crop", load=286, crop=256)
    assert process.stretched(360, 640) == (256, 286)
    assert process.stretched(640, 360) is None
    assert make("scale_shortside_and_crop", load=286, crop=256).stretched(360, 640) is None
    assert process.for_inference().stretched(256, 256) is None


def test_a_test_has_the_size_of_the_training_where_nothing_was_cut() -> None:
    for words in ("resize", "scale_width"):
        assert make(words).for_inference()(picture(80, 80), rng()).shape[-2:] == (40, 40)
        assert make(f"{words}_and_crop").for_inference()(picture(80, 80), rng()).shape[-2:] == (32, 32)
    assert make("resize").for_inference().for_inference() == make("resize").for_inference()
