"""The published command lines of F-CAM: `python scripts/main_wsol.py --task STD_CL|F_CL --dataset CUB ...`.

They become a command of train.py, which is shown; flags of train.py may stand among them.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import train
from models.fcam_options import FcamOptions
from options.groups import Inference
from options.parse import RunOptions, train_options
from options.published_wsol import DATA_ROOT, READERS, SPLITS_ROOT, train_flags
from util import ranks
from util.errors import exit_code

METHODS = ["gradcam++", "layercam"]
USAGE = f"""python scripts/main_wsol.py --task STD_CL|F_CL --dataset CUB|ILSVRC|OpenImages [flags]

The published flags: {", ".join(f"--{flag}" for flag in READERS)}.
Any flag of train.py may be added. In place of the folder pretrained/: --classifier_run RUN.
Images lie in --data_root DIR (or {DATA_ROOT}), in a folder named like the data set or, as CUB's archive has them, in
CUB_200_2011/images; split files in --splits_root DIR (or {SPLITS_ROOT}), in a folder named like the data set, else in
the folder splits beside the images (scripts/prepare_wsol.py writes them).
"""


def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(USAGE, end="")
        return 0
    flags, notes = train_flags(sys.argv[1:])
    for note in notes:
        print(note, file=sys.stderr)
    print(f"python train.py {shlex.join(flags)}", file=sys.stderr)
    sys.argv = ["train.py", *flags]
    status = train.main()
    if status == 0 and ranks.is_first():
        print("its maps of the test images, and their scores:", *scoring(train_options(flags)), sep="\n  ")
    return status


def scoring(run: RunOptions) -> tuple[str, str]:
    """The commands that write the maps of a trained run and score them."""
    fcam = isinstance(run.model, FcamOptions)
    # CAM needs a linear layer after the mean.
    methods = ["cam", *METHODS] if getattr(run.model, "spatial_pooling", "") == "WGAP" else METHODS
    what = [] if fcam else ["--cam_method", ",".join(methods), "--explained", "both"]
    folder = Path(Inference().results_dir) / run.experiment.name / ("latest_fcam" if fcam else "latest")
    splits = getattr(run.dataset, "wsol_splits", None)
    data = ["--dataroot", run.data.dataroot, *(["--wsol_splits", splits] if splits else [])]
    maps = ["cam_infer.py", "--checkpoint", str(run.folder), *what, "--num_test", "100000", "--maps_only"]
    scores = ["scripts/evaluate.py", "--maps", str(folder), *data]
    return f"python {shlex.join(maps)}", f"python {shlex.join(scores)}"


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
