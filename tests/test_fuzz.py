"""Damaged files cost one line, whatever reads them; and the fuzzer itself sees each thing that must not happen."""

from __future__ import annotations

import math
import os
import signal
import struct
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from data.decoders import ImageError, describe, read_raw
from options.schema import OptionError
from options.yaml_config import read_yaml
from scripts.faults.fuzz import Report, fuzz, fuzz_images, fuzz_readers
from scripts.faults.mutants import STRATEGIES, TEXTS, Mutant, mutant, png_with_checksums
from scripts.faults.readers import READERS, Fault, fingerprint, image_reader
from scripts.faults.specimens import H, W, image_specimens
from util.checkpoint import MAGIC, CheckpointError, export_weights, load_state, load_weights
from util.visual.jsonl import read_log

IMAGES = image_specimens()
LITTLE = 2**26  # bytes
INTACT = {specimen.data for specimen in IMAGES}


def whole(report: Report, files: int) -> bool:
    """Whether every file has come out somewhere."""
    parts = report.refused + report.unchanged + report.read_changed.total() + len(report.violations)
    return report.files == files == parts


# --- the program's own readers


def test_damaged_images_are_refused_or_read() -> None:
    report = fuzz_images(500, seed=0)
    assert not report.violations, report
    assert whole(report, 500)
    assert report.refused > 250
    assert report.unchanged > 20
    assert {"tiff", "bmp", "npy"} <= set(report.read_changed)  # without checksums, as the docstring says


def test_damaged_files_of_other_kinds_are_refused_or_read() -> None:
    reports = fuzz_readers(301, seed=0)
    assert [report.reader for report in reports] == [name for name in READERS if name != "images"]
    assert sum(report.files for report in reports) == 301
    for report in reports:
        assert not report.violations, report
        assert whole(report, report.files)
        assert report.refused > 5
        assert report.unchanged + report.read_changed.total() > 0
        assert set(report.read_changed) <= TEXTS | {"state", "old weights"}


def test_weights_are_compared_with_the_checksums_of_their_archive(tmp_path: Path) -> None:
    path, net = tmp_path / "latest_net_G.pth", nn.Linear(8, 8)
    export_weights(path, net.state_dict())
    data, weights = bytearray(path.read_bytes()), net.weight.detach().numpy().tobytes()
    data[bytes(data).index(weights) + 100] ^= 1
    path.write_bytes(data)
    assert not torch.equal(torch.load(path, weights_only=True)["weight"], net.weight)  # PyTorch sees nothing
    with pytest.raises(CheckpointError, match=r"latest_net_G\.pth: is damaged \(the checksum of .*data/0 does not fit"):
        load_weights(path, net)


@pytest.mark.parametrize("value", [torch.ones(2, 2).to_sparse(), torch.ones(2, 2, dtype=torch.complex64)])
def test_weights_that_are_no_plain_numbers_are_refused_before_any_is_loaded(value: Any, tmp_path: Path) -> None:
    path, net = tmp_path / "latest_net_G.pth", nn.Linear(2, 2)
    before = fingerprint(net.state_dict())
    torch.save({"bias": torch.zeros(2), "weight": value}, path)
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_weights(path, net)
    torch.save({"bias": torch.zeros(2), 7: torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_weights(path, net)
    assert fingerprint(net.state_dict()) == before


def test_no_message_advises_to_load_code(tmp_path: Path) -> None:
    path = tmp_path / "latest_net_G.pth"
    torch.save({"weight": _Code()}, path)
    with pytest.raises(CheckpointError) as caught:
        load_weights(path, nn.Linear(2, 2))
    assert "system" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    (tmp_path / "latest_state.pt").write_bytes(MAGIC[:6] + b"\n\x1b" + bytes(64))
    with pytest.raises(CheckpointError, match=r"has format \\n\\x1b, this program reads 01"):
        load_state(tmp_path / "latest_state.pt")


class _Code:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_texts_that_are_nested_deeply_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    for text in ("[" * 20_000, "- " * 20_000, "name: [&a [x], &b [*a, *a], [*b, *b]]"):
        path.write_text(text)
        with pytest.raises(OptionError, match=r"options\.yaml: (is no file of options|must hold lines)"):
            read_yaml(path)
    path.write_text("name: x\n" + "# \n" * 30_000)
    with pytest.raises(OptionError, match="at most 65536 bytes"):
        read_yaml(path)
    path.write_text("seed: " + "9" * 5000)
    with pytest.raises(OptionError, match="is no valid YAML"):
        read_yaml(path)
    log = tmp_path / "log.jsonl"
    log.write_text("[" * 100_000 + '\n{"step": 1}\n')
    with pytest.raises(ValueError, match="line 1: not a JSON object"):
        read_log(log)


# --- what the fuzzer sees: readers that do what must not happen as soon as a file is damaged


def _damaged(path: Path) -> bool:
    return path.read_bytes() not in INTACT


def _crash(path: Path) -> Any:
    if _damaged(path):
        os.kill(os.getpid(), signal.SIGSEGV)
    return read_raw(path)


def _leave(path: Path) -> Any:
    if _damaged(path):
        os._exit(3)
    return read_raw(path)


def _hang(path: Path) -> Any:
    if _damaged(path):
        time.sleep(60)
    return read_raw(path)


def _fill_memory(path: Path) -> Any:
    if _damaged(path):
        np.ones(3 * LITTLE, np.uint8)
    return read_raw(path)


def _ask_for_too_much(path: Path) -> Any:
    try:
        return np.ones(2**45, np.uint8) if _damaged(path) else read_raw(path)
    except MemoryError as error:
        raise ImageError(f"{path}: something went wrong") from error


def _raise_another_error(path: Path) -> Any:
    if _damaged(path):
        raise IndexError("pop from empty list")
    return read_raw(path)


def _exit(path: Path) -> Any:
    if _damaged(path):
        raise SystemExit(0)
    return read_raw(path)


def _say_two_lines(path: Path) -> Any:
    if _damaged(path):
        raise ImageError(f"{path}:\nis bad")
    return read_raw(path)


def _name_no_file(path: Path) -> Any:
    if _damaged(path):
        raise ImageError("it is bad")
    return read_raw(path)


def _say_all(path: Path) -> Any:
    if _damaged(path):
        raise ImageError(f"{path}: " + "x" * 5000)
    return read_raw(path)


def _turn(path: Path) -> Any:
    pixels = read_raw(path)
    return pixels.swapaxes(0, 1).copy() if _damaged(path) else pixels


def _widen(path: Path) -> Any:
    pixels = read_raw(path)
    return pixels.astype(np.float64) if _damaged(path) else pixels


def _add_nan(path: Path) -> Any:
    pixels = read_raw(path)
    if _damaged(path) and pixels.dtype == np.float32:
        pixels[0, 0] = np.nan
    return pixels


def _fill_up(path: Path) -> Any:
    """What a lenient decoder makes of a file that has been cut: the rows that are missing become zero."""
    try:
        return read_raw(path)
    except ImageError:
        return np.zeros((H, W, 3), np.uint8)


def _describe_leniently(path: Path) -> Any:
    try:
        return describe(path)
    except ImageError:
        return H, W, "uint8"


@pytest.mark.parametrize(
    ("read", "kind", "words"),
    [
        (_crash, "crash", "signal SIGSEGV"),
        (_leave, "crash", "exit status 3"),
        (_hang, "slow", "no answer in 0.5 s"),
        (_fill_memory, "memory", "over 64 MiB"),
        (_ask_for_too_much, "memory", "only because there was no more"),
        (_raise_another_error, "exception", "IndexError: 'pop from empty list'"),
        (_exit, "exception", "SystemExit"),
        (_say_two_lines, "message", "is bad"),
        (_name_no_file, "message", "does not name the file"),
        (_say_all, "message", "at most 1000 characters"),
    ],
)
def test_what_a_reader_does_is_seen(read: Any, kind: str, words: str) -> None:
    report = fuzz(image_reader(read), 3, seed=0, seconds=0.5 if read is _hang else 5.0, memory=LITTLE)
    assert whole(report, 3)  # the run has gone on after each
    assert [violation.kind for violation in report.violations] == [kind] * 3
    assert words in str(report)
    assert "images, seed 0, number 2: " + kind in str(report)


def _sleep_on_npy(path: Path) -> Any:
    if _damaged(path) and path.name.endswith(".npy"):
        time.sleep(1.3)
    if _damaged(path) and path.name.endswith(".bmp"):
        raise IndexError
    return read_raw(path)


def test_a_late_answer_is_not_taken_for_that_of_the_next_file() -> None:
    report = fuzz(image_reader(_sleep_on_npy), 30, seed=1, seconds=1.0)
    kinds = {".npy": "slow", ".bmp": "exception"}
    damaged = [one for one in mutants("images", 30, seed=1) if one.data not in INTACT]
    expected = {one.number: kinds[Path(one.name).suffix] for one in damaged if Path(one.name).suffix in kinds}
    assert {violation.mutant.number: violation.kind for violation in report.violations} == expected
    assert set(expected.values()) == {"slow", "exception"}


@pytest.mark.parametrize(
    ("read", "look", "kind", "words"),
    [
        (_turn, describe, "answer", "where its header says"),
        (_widen, describe, "answer", "no array of a known kind"),
        (_add_nan, describe, "answer", "holds NaN"),
        (_fill_up, describe, "answer", "a look at the header refuses it"),
        (_fill_up, _describe_leniently, "garbage", "other content than the original's"),
    ],
)
def test_what_a_reader_returns_is_seen(read: Any, look: Any, kind: str, words: str) -> None:
    report = fuzz(image_reader(read, look), 100, seed=2)
    assert whole(report, 100)
    found = [violation for violation in report.violations if violation.kind == kind]
    assert found
    assert words in str(report)
    again = fuzz(image_reader(read, look), 1, seed=2, first=found[-1].mutant.number)
    assert again.violations == [found[-1]]  # its seed and number are enough


def test_a_filled_up_image_is_seen_in_each_family_that_can_tell() -> None:
    report = fuzz(image_reader(_fill_up, _describe_leniently), 600, seed=3)
    cut = {v.mutant.family for v in report.violations if v.kind == "garbage" and v.mutant.strategies == ("cut",)}
    assert cut == {"png", "jpeg", "tiff", "bmp", "npy"}
    flipped = {v.mutant.family for v in report.violations if v.kind == "garbage" and v.mutant.strategies == ("flip",)}
    assert flipped == {"png"}
    assert "(foreign): read, though it is a file of another kind" in str(report).replace(": garbage on", "")


def _refuse_all(path: Path) -> Any:
    raise ImageError(f"{path}: is refused")


def test_a_reader_must_read_what_is_intact() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)the reader images does not start.*is refused"):
        fuzz(image_reader(_refuse_all), 1, seed=0)


# --- what it feeds


def test_specimens_show_one_scene() -> None:
    """Forty-odd files, written by three libraries and by hand, that hold the same numbers."""
    pixels = {specimen.name: read_specimen(specimen.data, Path(specimen.name).suffix) for specimen in IMAGES}
    assert len(pixels) == len(IMAGES) > 45
    assert Counter(specimen.family for specimen in IMAGES).keys() == {"png", "jpeg", "tiff", "bmp", "npy"}
    gray16 = pixels["rgb16.png"][..., 0]
    assert gray16.shape == (H, W)
    assert gray16.std() > 1000
    for name, array in pixels.items():
        if name.startswith(("gray16", "gray_alpha16")):
            assert np.array_equal(array, gray16), name
        elif name.startswith(("rgb16",)):
            assert np.array_equal(array, pixels["rgb16.png"]), name
        elif name.startswith("gray8"):
            assert np.array_equal(array, gray16 >> 8), name
        elif name.startswith(("rgb8", "rgba8", "animated")) and "jpeg" not in name:
            assert np.array_equal(array, pixels["rgb16.png"] >> 8), name
        elif name.startswith("float32") and name.endswith(".tif"):
            assert np.array_equal(array, gray16.astype(np.float32) / 7), name
        elif name.endswith(".jpg") and name not in ("turned.jpg", "gray.jpg"):
            assert np.abs(array - (pixels["rgb16.png"] / 256)).mean() < 12, name
    assert np.array_equal(np.rot90(pixels["turned.png"]), pixels["rgb16.png"] >> 8)
    assert pixels["turned.jpg"].shape == (W, H, 3)


def read_specimen(data: bytes, suffix: str) -> Any:
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        return read_raw(file.name)


def mutants(reader: str, count: int, seed: int = 0) -> list[Mutant]:
    specimens, foreign = READERS[reader].specimens(), READERS[reader].foreign()
    return [mutant(specimens, foreign, seed, number) for number in range(count)]


def test_a_mutant_follows_from_its_seed_and_number() -> None:
    first = mutants("images", 40)
    assert first == mutants("images", 40)
    assert first[20:] == [mutant(IMAGES, READERS["images"].foreign(), 0, number) for number in range(20, 40)]
    assert first != mutants("images", 40, seed=1)


def test_every_kind_of_damage_reaches_every_specimen_that_it_can() -> None:
    seen = Counter((one.specimen, step) for one in mutants("images", 8000) for step in one.strategies)
    for specimen in IMAGES:
        for step in {*STRATEGIES, "foreign"} - {"words", "checksum"}:
            assert seen[specimen.name, step], (specimen.name, step)
    assert {name for name, step in seen if step == "checksum"} == {one.name for one in IMAGES if one.family == "png"}
    texts = {
        one.family
        for name in ("labels", "options", "domains", "log")
        for one in mutants(name, 300)
        if "words" in one.strategies
    }
    assert texts == TEXTS


def test_what_is_allowed_follows_from_the_damage() -> None:
    originals = {specimen.name: specimen.data for specimen in IMAGES}
    for one in mutants("images", 3000):
        original = originals[one.specimen]
        if one.strategies == ("foreign",):
            assert one.allowed == "nothing"
        elif one.strategies == ("cut",):
            assert len(one.data) < len(original)
            assert original.startswith(one.data)
            assert one.allowed == "same"
        elif one.strategies == ("rename",):
            assert (one.data, one.allowed) == (original, "same")
        elif one.family == "png" and "checksum" not in one.strategies and "splice" not in one.strategies:
            assert one.allowed == "same"
        elif one.family in ("tiff", "bmp", "npy") and one.data != original and one.strategies != ("cut",):
            assert one.allowed == "any"
        if one.strategies == ("checksum",):
            assert png_with_checksums(one.data) == one.data


def test_sizes_are_made_zero_negative_and_huge() -> None:
    """The heights that a PNG's header is given, with its checksum computed anew."""
    png = replace(next(specimen for specimen in IMAGES if specimen.name == "gray8.png"))
    found = {
        struct.unpack(">I", one.data[20:24])[0]
        for one in (mutant([png], [b""], 0, number) for number in range(6000))
        if one.strategies == ("checksum",) and len(one.data) > 24
    }
    assert {0, 1, 16_000, 2**32 - 1, 2**31, H, H + 1, H * 256} <= found


def test_fingerprints_tell_contents_apart() -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    different = [
        *(array, array.T.copy(), array.astype(np.uint16), array + 1, array.reshape(3, 2)),
        *(torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16), torch.zeros(1, 2), torch.ones(2)),
        *({"a": 1}, {"a": 1.0}, {"b": 1}, [1], [[1]], "1", None, math.nan, torch.ones(2).to_sparse()),
    ]
    texts = [fingerprint(value) for value in different]
    assert len(set(texts)) == len(texts)
    assert fingerprint([math.nan, {"a": array}]) == fingerprint([math.nan, {"a": array.copy()}])
    assert fingerprint(torch.tensor(3.0)) != fingerprint(torch.tensor(4.0))


def test_a_report_says_what_came_of_the_files() -> None:
    report = Report("images", 4, 10, 6, 1, Counter(tiff=2, bmp=1), [], (0.25, "x.png, cut, number 3, refused"))
    assert str(report) == (
        "images: 10 files (seed 4), 6 refused, 1 read unchanged, 3 read changed (1 bmp, 2 tiff), 0 violations; "
        "slowest 0.250 s (x.png, cut, number 3, refused)"
    )
    assert issubclass(Fault, Exception)
