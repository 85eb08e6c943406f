"""Maps that lie in a folder: those of `cam_infer.py` by its manifest, or `NAME.npy` beside images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.base import DataError
from data.decoders import EXTENSIONS
from models.cam.base import EXPLAINERS
from util.errors import printable
from util.files import inside
from util.strict_json import Fields, is_number_or_none, read_json

MANIFEST = "manifest.json"
BARE = "maps"  # name of a method that nobody has named
_IMAGES = EXTENSIONS - {".npy"}


@dataclass(frozen=True)
class Saved:
    """One map.

    Attributes:
        image: file of the image it explains.
        label: its class, or None.
        method: name of the row in the table: the method with the settings that were changed and its layer, and which
            picture where there are several.
        explained: the class explained, or None.
        raw: file of the array, (h, w), or (C, h, w) of methods in pixels.
        rectified: negative values count as none.
        of_input: whether it explains the image itself, and not what was made of it.
        predicted: the class the network sees, or None.
        ranking: its likeliest classes, the first one first; empty: not known.
        unit: values are probabilities, which nobody stretches.
    """

    image: Path
    label: int | None
    method: str
    explained: int | None
    raw: Path
    rectified: bool
    of_input: bool
    predicted: int | None = None
    ranking: tuple[int, ...] = ()
    unit: bool = False

    def read(self) -> Tensor:
        """(h, w) float32, colours by their strongest, not negative where the method counts no negative evidence.

        Raises:
            DataError: the file is missing, no array of that kind, or holds NaN or infinity.
        """
        try:
            found = np.load(self.raw, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{printable(self.raw)}: cannot be read as an array: {printable(error)}") from error
        if (
            not isinstance(found, np.ndarray)
            or found.dtype.kind not in "fiu"
            or found.ndim not in (2, 3)
            or not found.size
        ):
            raise DataError(f"{printable(self.raw)}: should hold a map (h, w) or (C, h, w) of numbers")
        values = torch.from_numpy(found.astype(np.float32))
        if not bool(values.isfinite().all()):
            raise DataError(f"{printable(self.raw)}: holds NaN or infinity; write the map anew")
        if values.ndim == 3:
            return values.abs().amax(0)
        return values.relu() if self.rectified else values


def find_maps(folder: Path, root: Path | None) -> list[Saved]:
    """The maps of a folder.

    Args:
        root: of the data, where images are looked for that are not where the manifest says.

    Raises:
        DataError, JsonError: there is none, the manifest is damaged, or an image cannot be found.
    """
    if not folder.is_dir():
        raise DataError(f"--maps {printable(folder)}: no such folder")
    listed = (folder / MANIFEST).is_file()
    found = list(_listed(folder, root) if listed else _beside_images(folder, root))
    if not found:
        wanted = f"{MANIFEST} names none" if listed else f"neither {MANIFEST} nor NAME.npy of an image NAME"
        raise DataError(f"--maps {printable(folder)}: holds no map: {wanted}")
    return found


def _listed(folder: Path, root: Path | None) -> Iterator[Saved]:
    path = folder / MANIFEST
    manifest = Fields(read_json(path), printable(path))
    settings = _settings(manifest)
    for number, content in enumerate(manifest.items("images")):
        where = f"{printable(path)}, image {number}"
        image = Fields(content, where)
        file = _image(image.text("file"), folder, root)
        label = _class(image, "label")
        for view in image.items("views") if "views" in image.content else [content]:
            fields = Fields(view, where)
            for entry in fields.items("maps"):
                yield _saved(Fields(entry, where), folder, file, label, fields, settings)


def _settings(manifest: Fields) -> dict[str, str]:
    """By method `channels=1, scale_first=yes`, as `--method_settings` was given; of the same setting the last."""
    words = manifest.items("method_settings") if "method_settings" in manifest.content else ()
    found: dict[str, dict[str, str]] = {}
    for word in words:
        left, equals, value = word.partition("=") if isinstance(word, str) else ("", "", "")
        method, dot, setting = left.strip().rpartition(".")
        if not equals or not dot:
            manifest.refuse("method_settings", "a list of METHOD.SETTING=VALUE")
        found.setdefault(method, {})[setting] = value.strip()
    return {
        method: ", ".join(f"{printable(name)}={printable(value)}" for name, value in given.items())
        for method, given in found.items()
    }


def _saved(
    entry: Fields, folder: Path, image: Path, label: int | None, view: Fields, settings: Mapping[str, str]
) -> Saved:
    side = view.content.get("side")
    raw = folder / entry.text("raw")
    if not inside(raw, folder):
        raise DataError(f"{printable(raw)}: lies outside the folder of the maps")
    method, layer = entry.text("method"), entry.content.get("layer")
    changed = f"({settings[method]})" if method in settings else ""
    words = [method, changed, f"at {layer}" if layer else "", f"of {side}" if side else ""]
    known = method in EXPLAINERS.names()
    return Saved(
        image=image,
        label=label,
        method=" ".join(word for word in words if word),
        explained=_class(entry, "class" if "class" in entry.content else "target"),
        raw=raw,
        rectified=not known or EXPLAINERS.get(method).rectified,
        of_input=side in (None, "", "input"),
        predicted=_class(view, "predicted") if "predicted" in view.content else None,
        ranking=_ranking(view),
        unit=entry.content.get("unit") is True,
    )


def _ranking(view: Fields) -> tuple[int, ...]:
    listed = view.items("ranking") if "ranking" in view.content else ()
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in listed):
        view.refuse("ranking", "a list of classes")
    return tuple(listed)


def _class(fields: Fields, name: str) -> int | None:
    value = fields.content.get(name)
    if not is_number_or_none(value) or (value is not None and value != int(value)):
        fields.refuse(name, "a class or null")
    return None if value is None or value < 0 else int(value)


def _beside_images(folder: Path, root: Path | None) -> Iterator[Saved]:
    for raw in sorted(folder.rglob("*.npy")):
        names = [raw.with_suffix(suffix) for suffix in sorted(_IMAGES)]
        image = next((name for name in names if name.is_file()), None)
        if image is None and root is not None:
            image = next((file for name in names if (file := _below(root, Path(name.name))) is not None), None)
        if image is None:
            raise DataError(
                f"{printable(raw)}: there is no image {printable(raw.stem)}.png beside it, nor in --dataroot"
            )
        yield Saved(image, None, BARE, None, raw, rectified=True, of_input=True)


def _image(name: str, folder: Path, root: Path | None) -> Path:
    places = [Path(name), folder / name, *([root / name] if root else [])]
    found = next((place for place in places if place.is_file()), None) or (root and _below(root, Path(name)))
    if not found:
        raise DataError(
            f"{printable(name)}: the image of a map is not there; give the data it comes from by --dataroot"
        )
    return found


def _below(root: Path, name: Path) -> Path | None:
    """A file of that name anywhere in the data: with as many of its folders as are there, and only if it is the only
    one."""
    for parts in (name.parts[-count:] for count in range(min(3, len(name.parts)), 0, -1)):
        found = [file for file in root.rglob(parts[-1]) if file.parts[-len(parts) :] == parts]
        if len(found) == 1:
            return found[0]
    return None
