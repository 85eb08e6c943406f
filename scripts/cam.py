"""The command of the published ResNetCAM project (lorenzo-27/DLA-Labs): train its classifier, draw its maps.

python scripts/cam.py --train --config cam_config.yaml
python scripts/cam.py --model checkpoints/resnet_cam.pt --image photo.jpg --class_idx 3
python scripts/cam.py --model checkpoints/resnet_cam.pt --random 5 --dataset val --output_dir cam_results/

With --train any flag of train.py may be added, such as --pretrained, --name or --continue_train
(python train.py --model classifier --help lists them).

cam_infer.py does more: other methods and layers, raw maps, a page.
"""

from __future__ import annotations

import argparse
import io
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, Python looks beside it only

from data.classes_dataset import ClassesOptions
from data.domain import load_classes
from data.imagenette import IMAGENETTE, imagenette_root
from models import load_trained
from models.classifier_model import ClassifierModel, ClassifierOptions
from models.published_classifier import load_published_classifier
from options.flags import Parser, flag_of, suggest
from options.groups import COMMON, Explanation, Inference
from options.parse import OPTIONS_FILE, RunOptions, inference_options, train_options
from options.schema import OptionError, check_place, fields_of
from scripts.explaining.classifier import ClassifierExplainer, Tally, caption
from scripts.explaining.drawing import Drawing
from scripts.explaining.inputs import Input, choose_inputs
from util.engine.build import choose_device
from util.errors import exit_code, printable
from util.files import check_writable, write_atomic
from util.visual.files import png_bytes

# Methods and layers: of ResNets as published; of networks with other heads.
RESNET, OTHER = ("cam", "net.layer4"), ("gradcam", "auto")
CONFIG = "cam_config.yaml"
WEIGHTS = "_net_C.pth"
DOWNLOAD = "--download"


def main(argv: Sequence[str] | None = None) -> int:
    given, more = _parser().parse_known_args(argv)
    if more and not given.train:
        raise OptionError(_refused(more[0], list(vars(given))))
    look = Explanation(image=given.image, random=given.random, index=given.index, class_idx=given.class_idx)
    drawing = given.image is not None or bool(given.random) or given.index is not None
    if not drawing and not given.train:
        raise OptionError("nothing to do: give --train, or --image, --random or --index for maps")
    if given.train and given.model is not None:
        raise OptionError(
            f"--model {given.model}: --train makes new weights; leave out one of them, or give --pretrained_name RUN "
            "to begin with those of an earlier run"
        )
    check_place("output_dir", given.output_dir)
    data = _data_flags(given)
    flags = ["--model", "classifier", "--config", str(_config(given.config)), *data]
    run = _quietly([*flags, *more])
    if given.train and (status := _train([*flags, *more])):
        return status
    if drawing:
        run, model, names = _trained(run, flags, data, None if given.train else given.model)
        run = replace(run, extra=(Inference(phase=given.dataset), look), given=run.given | {"phase"})
        draw(run, model, look, names, Path(given.output_dir))
    return 0


def draw(run: RunOptions, model: ClassifierModel, look: Explanation, names: Mapping[int, str], folder: Path) -> None:
    """Write one figure of three panels for each image chosen.

    Raises:
        UserError: images cannot be used, or nothing can be written there.
    """
    check_writable(folder, "--output_dir")
    inputs = choose_inputs(run, model.size_multiple, names, "--dataset")
    names = {**names, **inputs.domain.class_names}
    method, layer = RESNET if str(getattr(run.model, "arch", "")).startswith("resnet") else OTHER
    asked = ClassifierExplainer(model, replace(look, explain_with=(method,), layer=layer), names)
    tally = Tally()
    for number, (source, seen) in enumerate(asked.all(inputs)):
        target = folder / file_of(source, number, look)
        panel = Drawing(seen.picture, seen.words, look).panel(seen.maps, method)
        write_atomic(target, _encoded(panel, target.suffix))
        tally.add(source.label, seen.predicted)
        print(f"{caption(source)}: {asked.line(source, seen)}; {printable(target)}")
    print(tally.line)


def file_of(source: Input, number: int, look: Explanation) -> str:
    """The published project's names: `cam_<file>`, `random_cam_<i>.png`, `index_<I>_cam.png`."""
    if look.image is not None:
        return "_".join(["cam", *source.file.parts])
    return f"random_cam_{number}.png" if look.random else f"index_{look.index}_cam.png"


def _parser() -> Parser:
    parser = Parser(
        prog="cam.py", allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help=f"configuration in YAML; none: {CONFIG} here, else the one that ships")
    parser.add_argument("--model", help="trained weights: a published checkpoint, a run's folder or its file")
    parser.add_argument("--class_idx", type=int, default=-1, help="class explained; none: the one predicted")
    parser.add_argument("--train", action="store_true", help="train first")
    parser.add_argument("--image", help="draw this file, all of a folder, or what fits a pattern")
    parser.add_argument("--random", type=int, default=0, help="draw so many random images of the data set")
    parser.add_argument("--index", type=int, help="draw this image of the data set")
    parser.add_argument("--dataset", choices=("train", "val"), default="val", help="images of --random and --index")
    parser.add_argument("--output_dir", default="cam_results/", help="folder of the figures")
    parser.add_argument("--dataroot", help="folder of the images, in place of the configuration's data_dir")
    parser.add_argument("--download", action="store_true", help="fetch what is missing, such as Imagenette")
    parser.add_argument("--on_bad_image", choices=("error", "skip"), help="where an image cannot be read")
    parser.add_argument("--seed", help="other numbers draw other images by --random, and train otherwise")
    parser.add_argument("--gpu_ids", help="GPU to use, for example 0; -1: CPU")
    return parser


def _refused(word: str, known: Sequence[str]) -> str:
    """What to say of a word that is no flag here, where nothing is trained that could know it."""
    if not word.startswith("--"):
        return f"{word}: belongs to no flag; flags begin with --"
    flag = flag_of(word)
    if any(flag in fields_of(kind) for kind in (*COMMON, ClassifierOptions, ClassesOptions)):
        return f"--{flag}: a flag of train.py, which goes with --train"
    return f"--{flag}: no such flag{suggest(flag, known)}; --help lists them all"


def _data_flags(given: argparse.Namespace) -> list[str]:
    """Flags of train.py that images are drawn by as well."""
    named = [(flag, getattr(given, flag)) for flag in ("dataroot", "on_bad_image", "seed", "gpu_ids")]
    flags = [f"--{flag}={value}" for flag, value in named if value is not None]
    return [*flags, DOWNLOAD] if given.download else flags


def _quietly(flags: Sequence[str]) -> RunOptions:
    """Options without the notes on them: the training process says them, and they are about training alone."""
    with redirect_stderr(io.StringIO()):
        return train_options(argv=flags)


def _config(given: str | None) -> Path:
    """The file asked for; without one the published name, here or as it ships. None is ever written."""
    if given is not None:
        return Path(given)
    return Path(CONFIG) if Path(CONFIG).is_file() else ROOT / "datasets" / CONFIG


def _train(flags: Sequence[str]) -> int:
    """Train in a process of its own, which alone minds Ctrl-C: it saves before it ends. Returns its status."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run([sys.executable, str(ROOT / "train.py"), *flags], check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)


Ready = tuple[RunOptions, ClassifierModel, Mapping[int, str]]


def _trained(run: RunOptions, flags: Sequence[str], data: Sequence[str], model: str | None) -> Ready:
    """Options, network and class names: of the run that the configuration means, or of --model.

    Args:
        data: those of the flags that a run of its own takes.
    """
    place = run.folder if model is None else Path(model)
    if model is None and not (place / OPTIONS_FILE).is_file():
        raise OptionError(f"--model: {place} holds no trained run; give --train, or --model and a checkpoint")
    folder = place if place.is_dir() else place.parent
    if (folder / OPTIONS_FILE).is_file() and (place.is_dir() or place.name.endswith(WEIGHTS)):
        epoch = "latest" if place.is_dir() else place.name.removesuffix(WEIGHTS)
        words = ["--checkpoints_dir", str(folder.parent), "--name", folder.name, "--epoch", epoch]
        own = inference_options((), [*words, *(word for word in data if word != DOWNLOAD)], "cam.py")
        network = load_trained(own, choose_device(own.runtime.gpu_ids))
        if not isinstance(network, ClassifierModel):
            raise OptionError(f"--model {printable(place)}: is a run of --model {own.experiment.model}, no classifier")
        if isinstance(own.model, ClassifierOptions):  # no option that a run is held to once it is trained
            own = replace(own, model=replace(own.model, download=DOWNLOAD in data))
        return own, network, load_classes(folder) or {}
    return _published(place, flags)


def _published(place: Path, flags: Sequence[str]) -> Ready:
    """A published checkpoint of a resnet18, with the configuration's data and image size."""
    found = load_published_classifier(place)
    print(f"{printable(place)}: {found.describe()}")
    run = _quietly([*flags, "--arch", "resnet18", "--num_classes", str(found.num_classes)])
    # A folder that there is not: what a run has kept in its own belongs to other weights.
    run = replace(run, experiment=replace(run.experiment, name=str(Path(run.experiment.name, "published"))))
    model = ClassifierModel.from_options(run)
    # Counters of batch norm may be missing: they change nothing.
    model.classifier.load_state_dict({**model.classifier.state_dict(), **found.weights})
    model.to(choose_device(run.runtime.gpu_ids)).train(False)
    return run, model, _names(Path(run.data.dataroot), found.num_classes)


def _names(root: Path, count: int) -> dict[int, str]:
    """Names of so many classes in the order of their folders' names, which is how they were numbered."""
    place = (imagenette_root(root, download=False) or root) / "train"
    folders = sorted(one.name for one in place.iterdir() if one.is_dir()) if place.is_dir() else []
    folders = folders if len(folders) == count else sorted(IMAGENETTE) if len(IMAGENETTE) == count else []
    return {number: IMAGENETTE.get(name, name) for number, name in enumerate(folders)}


def _encoded(picture: np.ndarray, suffix: str) -> bytes:
    """A figure as the kind of file that its name says; PNG under a name that no picture has."""
    if suffix.lower() not in (".jpg", ".jpeg", ".bmp", ".tif", ".tiff"):
        return png_bytes(picture)
    done, content = cv2.imencode(suffix.lower(), picture[:, :, ::-1])
    assert done
    return content.tobytes()


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
