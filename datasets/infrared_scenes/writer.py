"""Writes a data set: into a temporary folder beside the one asked for, which takes its name when all is there."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .geometry import Mask
from .noise import NoiseBank
from .recipe import FOLDERS, Recipe, RecipeError, Shot, shots
from .scene import Scene, describe
from .sensor import InfraredCamera, ideal_counts, ideal_grey
from .thermal import actual, simulated

MANIFEST = "made_by_make_infrared.json"
_TABLES = ("labels.csv", "boxes.csv", "pairs_test.csv", "pairs_train.csv")
_OURS = {*FOLDERS, *_TABLES, "masks", "README.md", MANIFEST}
Picture = NDArray[np.uint8] | NDArray[np.uint16]
Progress = Callable[[list[Shot]], Iterable[Shot]]


@dataclass
class Studio:
    """The two cameras and the textures of one recipe."""

    recipe: Recipe
    bank: NoiseBank = field(init=False)
    camera: InfraredCamera = field(init=False)

    def __post_init__(self) -> None:
        self.bank = NoiseBank(self.recipe.seed)
        self.camera = InfraredCamera(self.recipe.seed, self.recipe.size)

    def scene(self, shot: Shot) -> Scene:
        """The scene of a shot."""
        return describe(shot.key, self.recipe.names[shot.label_id], self.recipe.size)

    def domain_a(self, scene: Scene) -> Picture:
        """The scene as the simulator renders it (size, size)."""
        kelvin = simulated(scene, self.bank)
        make = ideal_grey if self.recipe.bits == 8 else ideal_counts
        return make(kelvin, scene.key.camera)

    def domain_b(self, scene: Scene) -> Picture:
        """The scene as the sensor measures it (size, size)."""
        kelvin = actual(scene, self.bank)
        make = self.camera.grey if self.recipe.bits == 8 else self.camera.counts
        return make(kelvin, scene.key.camera)


def box_of(mask: Mask) -> tuple[int, int, int, int]:
    """Smallest box (x0, y0, x1, y1) in pixels that holds a mask (H, W); x1 and y1 are one past its last pixel."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _save_png(path: Path, picture: Picture) -> None:
    encoded, data = cv2.imencode(".png", picture)
    if not encoded:
        raise OSError(f"{path}: the PNG encoder failed")
    path.write_bytes(data.tobytes())


def _save_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_pictures(folder: Path, recipe: Recipe, progress: Progress) -> None:
    studio = Studio(recipe)
    labels: list[tuple[str, str, int]] = []
    boxes: list[tuple[str, int, int, int, int, str]] = []
    pairs: dict[str, list[tuple[str, str]]] = {"test": [], "train": []}
    for name in FOLDERS:
        (folder / name).mkdir()
        (folder / "masks" / name).mkdir(parents=True)
    for shot in progress(list(shots(recipe))):
        scene, name = studio.scene(shot), recipe.names[shot.label_id]
        mask = scene.object_mask
        for domain, render in ((shot.folder_a, studio.domain_a), (shot.folder_b, studio.domain_b)):
            if domain is None:
                continue
            file = f"{domain}/{shot.stem}.png"
            _save_png(folder / file, render(scene))
            _save_png(folder / "masks" / file, mask)
            labels.append((file, name, shot.label_id))
            boxes.append((file, *box_of(mask), name))
        if shot.folder_a and shot.folder_b:
            split = "test" if shot.folder_a == "testA" else "train"
            pairs[split].append((f"{shot.folder_a}/{shot.stem}.png", f"{shot.folder_b}/{shot.stem}.png"))
    order = {name: i for i, name in enumerate(FOLDERS)}
    labels.sort(key=lambda row: (order[row[0].split("/")[0]], row[0]))
    boxes.sort(key=lambda row: (order[row[0].split("/")[0]], row[0]))
    _save_table(folder / "labels.csv", ("file", "label", "label_id"), labels)
    _save_table(folder / "boxes.csv", ("file", "x0", "y0", "x1", "y1", "class"), boxes)
    _save_table(folder / "pairs_test.csv", ("A", "B"), pairs["test"])
    if recipe.paired_train:
        _save_table(folder / "pairs_train.csv", ("A", "B"), pairs["train"])


def _readme(recipe: Recipe) -> str:
    arguments = f"--size {recipe.size} --train {recipe.train} --test {recipe.test} --bits {recipe.bits}"
    arguments += f" --seed {recipe.seed} --classes {','.join(recipe.vehicles) or recipe.classes}"
    if recipe.prior_B:
        arguments += " --prior_B " + ",".join(f"{p:g}" for p in recipe.prior_B)
    if recipe.paired_train:
        arguments += " --paired_train"
    classes = ", ".join(f"{i} {name}" for i, name in enumerate(recipe.names))
    training = "paired: a stem shows one scene in A and B" if recipe.paired_train else "unpaired: no scene is in both"
    return f"""# Generated infrared scenes

Made by

    python datasets/make_infrared.py {arguments} --out THIS_FOLDER

The same arguments give the same bytes again. Licence: generated, free to use for any purpose.

- Domain A: as a clean simulator renders them. Domain B: as an uncooled long-wave infrared camera measures them.
- {recipe.size} x {recipe.size} grey PNG, {recipe.bits} bits. One vehicle in each. Classes (label ids): {classes}.
- Training scenes are {training}. Test scenes are always paired (`pairs_test.csv`).
- `labels.csv`: file, label, label_id. `boxes.csv`: pixels, x1 and y1 one past the last.
- `masks/FOLDER/STEM.png`: the vehicle is 255, the rest 0.
"""


def check_target(target: Path, recipe: Recipe, overwrite: bool) -> None:
    """Refuse a folder that is not ours to replace.

    Raises:
        RecipeError: the path is a file, or a folder with other things in it (never replaced), or a data set made
            with other arguments (replaced with ``overwrite`` only).
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RecipeError(f"--out {target}: is a file or a link, name a new folder")
    present = {entry.name for entry in target.iterdir()} if target.exists() else set()
    if not present:
        return
    foreign = sorted(present - _OURS)
    if MANIFEST not in present or foreign:
        found = f" (it holds {foreign[0]})" if foreign else ""
        raise RecipeError(f"--out {target}: not empty and not made by this script{found}, name another folder")
    try:
        made_with = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made_with = None
    if made_with != recipe.arguments() and not overwrite:
        raise RecipeError(f"--out {target}: holds a data set made with other arguments, add --overwrite to replace it")


def _take_name(made: Path, target: Path) -> None:
    """Give the finished folder its name; an older one is set aside first and removed last."""
    if not target.exists():
        made.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
    target.rename(aside / "old")
    try:
        made.rename(target)
    except OSError:
        (aside / "old").rename(target)
        raise
    finally:
        with suppress(OSError):
            shutil.rmtree(aside)


def write_dataset(target: Path, recipe: Recipe, overwrite: bool = False, progress: Progress = lambda s: s) -> None:
    """Make the data set ``target``; on any error the folder is left as it was.

    Raises:
        RecipeError: see :func:`check_target`.
        OSError: the disk is full or not writable.
    """
    target = target.absolute()
    check_target(target, recipe, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=target.parent))
    try:
        made.chmod(0o755)
        _write_pictures(made, recipe, progress)
        (made / "README.md").write_text(_readme(recipe), encoding="utf-8")
        manifest = json.dumps(recipe.arguments(), indent=1, sort_keys=True) + "\n"
        (made / MANIFEST).write_text(manifest, encoding="utf-8")
        _take_name(made, target)
    except BaseException:  # an interrupt from the keyboard must not leave half a folder either
        shutil.rmtree(made, ignore_errors=True)
        raise


def contact_sheet(recipe: Recipe, columns: int = 6) -> Mask:
    """For every class a row of test scenes seen as A over the same scenes seen as B, 8 bits whatever the recipe."""
    alike: dict[str, Any] = {"size": recipe.size, "seed": recipe.seed, "classes": recipe.classes}
    studio = Studio(Recipe(**alike, vehicles=recipe.vehicles))
    chosen: dict[int, list[Shot]] = {i: [] for i in range(recipe.classes)}
    for shot in shots(Recipe(**alike, train=1, test=40 * columns)):
        if shot.folder_a == "testA" and len(chosen[shot.label_id]) < columns:
            chosen[shot.label_id].append(shot)
    rows = []
    for label_id, name in enumerate(recipe.names):
        scenes = [studio.scene(shot) for shot in chosen[label_id]]
        for letter, render in (("A", studio.domain_a), ("B", studio.domain_b)):
            row = np.hstack([cv2.copyMakeBorder(render(s), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=255) for s in scenes])
            for colour, width in ((0, 3), (255, 1)):
                cv2.putText(
                    row,
                    f"{letter} {name}",
                    (5, 14),
                    cv2.FONT_HERSHEY_SIMPLEX,
                    0.4,
                    colour,
                    width,
                    cv2.LINE_AA,
                )
            rows.append(row)
    return np.asarray(np.vstack(rows), dtype=np.uint8)


def save_contact_sheet(path: Path, recipe: Recipe) -> None:
    """Write the contact sheet as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _save_png(path, contact_sheet(recipe))
