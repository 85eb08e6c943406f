"""What `scripts.faults.fuzz` feeds: each reader of files with its valid files, and what it may do with damaged ones."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.base import DataError
from data.decoders import ImageError, describe, read_raw
from data.domain import load_classes, load_formats, save_formats
from data.images import DomainFormat, Window
from data.labels import labels_from_folders, labels_from_table, read_labels
from options.parse import train_options
from options.yaml_config import dump_yaml
from scripts.faults.mutants import state_with_checksum
from scripts.faults.specimens import PNG_START, Specimen, image_specimens
from util.checkpoint import MAGIC, CheckpointError, load_state, load_weights, save_state
from util.errors import UserError
from util.visual.jsonl import read_log


class Fault(Exception):
    """A reader has returned what it must not."""


@dataclass(frozen=True)
class Reader:
    """One way into the program. Its functions are module-level ones: they are sent to another process.

    Attributes:
        name: on the command line and in reports.
        specimens: makes the valid files.
        foreign: makes contents that are no such file.
        read: a path to what it holds; raises a `Fault` where that contradicts itself.
        refusal: the one error with which a file may be refused.
        names_file: the error's message names the file; otherwise it names an option.
    """

    name: str
    specimens: Callable[[], tuple[Specimen, ...]]
    foreign: Callable[[], tuple[bytes, ...]]
    read: Callable[[Path], Any]
    refusal: type[Exception]
    names_file: bool = True


def fingerprint(value: Any) -> str:
    """A text that is equal for equal content, NaN included."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha1(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if isinstance(value, Tensor):
        plain = value.layout == torch.strided and not (value.is_quantized or value.is_meta)
        return f"{value.dtype} {fingerprint(_bytes_of(value))}{tuple(value.shape)}" if plain else repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {fingerprint(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(fingerprint, value)) + "]"
    return repr(value)


def _bytes_of(value: Tensor) -> np.ndarray:
    flat = value.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    array: np.ndarray = flat.view(torch.uint8).numpy()
    return array


# --- images


def _read_image(read: Callable[[Path], Any], look: Callable[[Path], tuple[int, int, str]], path: Path) -> Any:
    """An image, after a look at its header; both must say the same."""
    said: Any = None
    try:
        said = look(path)
    except ImageError as error:
        said = str(error)
    pixels = read(path)
    if isinstance(said, str):
        raise Fault(f"read, though a look at the header refuses it: {said}")
    if not isinstance(pixels, np.ndarray) or pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise Fault(f"is no array of a known kind: {getattr(pixels, 'dtype', type(pixels))}")
    if (*pixels.shape[:2], str(pixels.dtype)) != tuple(said) or pixels.shape[2:] not in ((), (3,)):
        raise Fault(f"{pixels.dtype} {pixels.shape}, where its header says {said}")
    if pixels.dtype == np.float32 and not np.isfinite(pixels).all():
        raise Fault("holds NaN or infinity")
    return pixels


def image_reader(
    read: Callable[[Path], Any] = read_raw, look: Callable[[Path], tuple[int, int, str]] = describe
) -> Reader:
    """The decoder of images, or one with its signature (`read_raw` and `describe` of `data.decoders`)."""
    return Reader("images", image_specimens, _no_images, partial(_read_image, read, look), ImageError)


@cache
def _no_images() -> tuple[bytes, ...]:
    """What is found under the names of images, the beginnings of true ones among it."""
    object_array = io.BytesIO()
    np.save(object_array, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    starts = (PNG_START, b"\xff\xd8\xff\xe0", b"II*\0", b"MM\0*", b"II+\0", b"BM", b"GIF89a", b"RIFF    WEBPVP8 ")
    return (
        b"",
        b"\n",
        b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj",
        b"PK\x03\x04" + bytes(60),
        b"\x93NUMPY\x01\0\xff\xff{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"(" * 60_000,
        object_array.getvalue(),
        bytes(5000),
        b"\xff" * 5000,
        *starts,
        *(start + bytes(3000) for start in starts),
        *(start + b"\xff" * 3000 for start in starts),
    )


# --- texts


def _read_labels(path: Path) -> Any:
    """A label file, and the labels that six files have by it; some of its names as class folders."""
    root = path.parent
    table = read_labels(path)
    files = [root / "trainA" / f"{name}.png" for name in ("a", "b", "c d", "é", "e", "f")]
    labels, names = labels_from_table(files, root, table)
    below = [root / "trainA" / name.strip("/") for name in list(table.rows)[:9]]
    return dict(table.rows), labels, names, labels_from_folders([*below, root / "trainA/x/a.png"], root / "trainA")


@cache
def _label_files() -> tuple[Specimen, ...]:
    rows = "file,label,label_id\ntrainA/a.png,car,0\ntrainA/b.png,truck,1\ntrainA/c d.png,car,0\ntrainA/é.png,bus,6\n"
    texts = {
        "plain/labels.csv": rows,
        "quoted/labels.csv": 'label_id,file,note\n2,"trainA/a.png","x, ""y""\nz"\n3,b.png,\n,e.png,none\n',
        "windows/labels.csv": "\ufeff" + rows.replace("\n", "\r\n").replace("/", "\\"),
        "names/labels.csv": "file,label\ntrainA/a.png,car\nb.png,truck\n",
        "names/labels.json": '{"trainA/a.png": "car", "trainA/b.png": "truck", "é.png": null}',
        "numbers/labels.json": '{"trainA/a.png": 3, "b.png": 0}',
    }
    return tuple(Specimen(name, "labels", text.encode()) for name, text in texts.items())


def _read_options(path: Path) -> Any:
    return train_options(["--config", str(path), "--dataroot", "x"])


@cache
def _option_files() -> tuple[Specimen, ...]:
    runs = {model: train_options(["--model", model, "--dataroot", "x"]) for model in ("cut", "cutcam")}
    texts = {f"{model}/options.yaml": dump_yaml(run.groups()) for model, run in runs.items()}
    texts["short/options.yaml"] = (
        "# by hand\nmodel: cutcam\nnce_layers: [0, 4, 8]\nlambda_CAM: 2.5e+1\n"
        "no_flip: yes\nname: 'my run'\ncrop_size: 64 96\n"
    )
    return tuple(Specimen(name, "options", text.encode()) for name, text in texts.items())


def _read_domains(path: Path) -> Any:
    return load_formats(path.parent), load_classes(path.parent)


@cache
def _domain_files() -> tuple[Specimen, ...]:
    eight, sixteen = DomainFormat(Window(0.0, 255.0), "uint8"), DomainFormat(Window(7312.0, 14205.5), "uint16")
    runs = {
        "8 bits/domains.json": _written("domains.json", lambda path: save_formats(path.parent, eight, eight)),
        "16 bits/domains.json": _written(
            "domains.json", lambda path: save_formats(path.parent, sixteen, eight, {0: "car", 1: "é"})
        ),
        "own windows/domains.json": json.dumps(
            {"source": {"window": None, "depth": "float32"}, "target": {"window": [-1e3, 1e3], "depth": "float32"}}
        ).encode(),
    }
    return tuple(Specimen(name, "domains", data) for name, data in runs.items())


@cache
def _log_files() -> tuple[Specimen, ...]:
    moments = [{"epoch": 1, "epoch_iters": i, "step": i, "total_iters": i, "seconds": 0.5} for i in range(1, 9)]
    lines = [json.dumps({**moment, "NCE": 4.5 - i / 9, "G_GAN": None}) for i, moment in enumerate(moments)]
    return (
        Specimen("whole/log.jsonl", "log", "".join(line + "\n" for line in lines).encode()),
        Specimen("torn/log.jsonl", "log", "\n".join(lines)[:-20].encode()),
    )


@cache
def _no_texts() -> tuple[bytes, ...]:
    """Texts that parsers stumble over, and files that are no text."""
    lists = ["&a0 [x]"] + [f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    bomb = f"name: [{', '.join(lists)}]\n"  # 9^11 words, once written out
    return (
        b"",
        b"\n\n",
        b"\0" * 4096,
        b"\xff\xfe" + "file,label,label_id\n".encode("utf-16-le"),
        b"\xef\xbb\xbf{}",
        "file,label_id\né.png,1\n".encode("latin-1"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"- " * 20_000,
        b"a: {" * 5_000,
        b"9" * 50_000,
        b'{"source": 1e999, "target": NaN}',
        b'{"step": "\\ud800"}\n{"step": 1}\n',
        b'file,label_id\n"' + b"x" * 300_000,
        b"file,label_id\n" + b"," * 100_000,
        b"file," * 50_000 + b"label_id\n",
        b"!!python/object/apply:os._exit [77]\n",
        b"model: !!python/object/apply:os._exit [77]\n",
        b"model: !!binary AAAA\nname: !!set {a}\n",
        b"? [a, b]\n: c\n",
        b"<<: {model: cut}\n",
        b"name: \x1b[2J\n",
        bomb.encode(),
        f"? {bomb[6:]}\n: 1\n".encode(),
    )


# --- checkpoints


@cache
def _states() -> tuple[Specimen, ...]:
    state = {
        "nets": {"G": {"weight": torch.arange(12.0).reshape(3, 4), "half": torch.ones(2, dtype=torch.bfloat16)}},
        "optimizers": {"G": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.5, 0.9)}]}},
        "position": {"epoch": 2, "step": 7},
        "losses": [1.25, float("nan"), None],
    }
    return (
        Specimen("state/latest_state.pt", "state", _written("latest_state.pt", lambda path: save_state(path, state))),
        Specimen("small/latest_state.pt", "state", _written("latest_state.pt", lambda path: save_state(path, {}))),
    )


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def _read_weights(path: Path) -> Any:
    """A network's weights after loading; one that is refused must leave the network as it was."""
    net = _network()
    before = fingerprint(net.state_dict())
    try:
        load_weights(path, net)
    except CheckpointError:
        if fingerprint(net.state_dict()) != before:
            raise Fault("refused, but a part of it has been loaded") from None
        raise
    return dict(net.state_dict())


@cache
def _weights() -> tuple[Specimen, ...]:
    """As they are written today, and as PyTorch wrote them before 1.6, without checksums."""
    draws = torch.Generator().manual_seed(1)
    weights = {
        key: torch.rand(value.shape, generator=draws) if value.is_floating_point() else value + 5
        for key, value in _network().state_dict().items()
    }
    new, old = (_torch_file(weights, _use_new_zipfile_serialization=flag) for flag in (True, False))
    return Specimen("new/latest_net_G.pth", "weights", new), Specimen("old/latest_net_G.pth", "old weights", old)


def _torch_file(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


class _Exit:
    """A pickle that ends the process which loads it."""

    def __reduce__(self) -> Any:
        return os._exit, (77,)


@cache
def _no_checkpoints() -> tuple[bytes, ...]:
    """Code in every wrapping, pickles of other things, and files of other kinds."""
    code = [
        pickle.dumps(_Exit()),
        _torch_file({"w": _Exit()}),
        _torch_file(_Exit(), _use_new_zipfile_serialization=False),
    ]
    others = [
        _torch_file([1, 2]),
        _torch_file(torch.zeros(2)),
        _torch_file({"w": 3}),
        pickle.dumps({"w": 1}),
        b"\x80\x02.",
    ]
    plain = [*code, *others, *_no_images()]
    framed = [state_with_checksum(MAGIC + bytes(32) + one) for one in (*code, *others[:2], b"", b"\x80\x02.")]
    return (*plain, *framed, MAGIC, MAGIC[:6] + b"99" + bytes(64))


def _written(name: str, write: Callable[[Path], object]) -> bytes:
    """What a function writes to a path of that name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        image_reader(),
        Reader("labels", _label_files, _no_texts, _read_labels, DataError),
        Reader("options", _option_files, _no_texts, _read_options, UserError, names_file=False),
        Reader("domains", _domain_files, _no_texts, _read_domains, DataError),
        Reader("log", _log_files, _no_texts, read_log, ValueError),
        Reader("states", _states, _no_checkpoints, load_state, CheckpointError),
        Reader("weights", _weights, _no_checkpoints, _read_weights, CheckpointError),
    )
}
