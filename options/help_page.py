"""What `python train.py --help` says beside the list of flags: which models there are, presets, a page of examples."""

from __future__ import annotations

from collections.abc import Mapping

from options import presets

# Listing these must not load a dozen modules with the libraries that they need.
MODELS_IN_WORDS: Mapping[str, str] = {
    "cut": "unpaired translation by contrast of patches (CUT, FastCUT); the default",
    "cutcam": "CUT with a class head whose activation maps guide the training",
    "srunit": "CUT that keeps the meaning of regions under small changes of features",
    "dclgan": "CUT in both directions at once",
    "cycle_gan": "unpaired translation by a cycle, the usual baseline",
    "sincut": "CUT from one image to another, with StyleGAN2's networks",
    "pix2pix": "translation learnt from pairs",
    "classifier": "a classifier of labelled images: to judge translations, and to be explained",
    "std_cl": "a classifier for weakly supervised localisation",
    "fcam": "full-resolution class activation maps by a decoder",
}
DATASETS_IN_WORDS: Mapping[str, str] = {
    "unaligned": "folders trainA and trainB that belong to no pairs; the default of translation",
    "aligned": "pairs: of one name in trainA and trainB, or halves of the images in train",
    "singleimage": "one image in trainA, one in trainB, seen in crops",
    "single": "one folder of images, for test.py and cam_infer.py",
    "classes": "a folder of labelled images; Imagenette among them",
    "wsol": "labelled images with boxes or masks, in the split files of localisation",
}

_COMMON = """  python scripts/doctor.py --dataroot datasets/my_data    what is there, and a command for it
  python train.py --dataroot datasets/my_data --name my_run {model}
  python train.py --dataroot datasets/my_data --name my_run {model} --dry_run > run.yaml
  python train.py --config run.yaml --name other --seed 1    the same with another seed
  python train.py --name my_run --continue_train             goes on where it was stopped
  torchrun --nproc_per_node 2 train.py --dataroot datasets/my_data --name two {model}"""
_OWN: Mapping[str, str] = {
    "cut": """  python train.py --dataroot datasets/my_data --name fast --CUT_mode FastCUT
  python train.py --dataroot datasets/my_data --name sr --extra_losses sr --inact_epochs 50""",
    "cutcam": """  python train.py --preset demo --dataroot datasets/my_data --name first
  python train.py --preset paper --dataroot datasets/my_data --name paper --num_classes 3
  python train.py --preset infrared16 --dataroot datasets/my_data --name ir --window_A 0,16383
  python train.py --model cutcam --dataroot datasets/my_data --name folders --labels_from_folders
  python train.py --model cutcam --dataroot datasets/my_data --name safe --on_collapse stop
  python train.py --model cutcam --dataroot datasets/my_data --name seen --sinks visdom,tensorboard""",
    "srunit": "  python train.py --model srunit --dataroot datasets/my_data --name sr --reg_layers 0,1,2,3,4",
    "pix2pix": "  python train.py --model pix2pix --dataroot datasets/my_data --name pairs --netG unet_256",
    "classifier": """  python train.py --model classifier --dataroot datasets/my_data --name judge --num_classes 3
  python train.py --model classifier --dataroot datasets/my_data --name tuned --pretrained --lr 0.0001""",
}
TEST_EXAMPLES = """examples
  python test.py --dataroot datasets/my_data --name my_run
  python test.py --checkpoint checkpoints/my_run --input photo.tif --output out
  python cam_infer.py --dataroot datasets/my_data --name my_run --class_idx 2 --save_raw
  python cam_infer.py --name my_classifier --image photos --cam_method gradcam,eigencam --top_k 3
"""


def examples(model: str) -> str:
    """The end of a model's help: presets, and commands that can be typed."""
    flag = f"--model {model}"
    parts = [presets.table(), "", "examples", _COMMON.format(model=flag)]
    return "\n".join([*parts, _OWN[model]] if model in _OWN else parts)


def overview() -> str:
    """The help where no model was named."""
    lines = [
        "usage: python train.py --model MODEL --dataroot DIR --name RUN [flags]",
        "",
        "Trains a model; its weights, log, pictures and options go to checkpoints/RUN.",
        "",
        "models (python train.py --model MODEL --help lists that model's flags with defaults and ranges)",
        *(f"  {name:<13}{what}" for name, what in MODELS_IN_WORDS.items()),
        "",
        "ways to read data (--dataset_mode MODE; most models know theirs)",
        *(f"  {name:<13}{what}" for name, what in DATASETS_IN_WORDS.items()),
        "",
        presets.table(),
        "",
        "flags of most use",
        "  --dataroot DIR      folder with trainA, trainB and so on     --name RUN       the run's name",
        "  --config FILE       options from a YAML file                 --dry_run        print them and stop",
        "  --continue_train    go on with the run of that name          --gpu_ids -1     the CPU",
        "",
        "examples",
        _COMMON.format(model="--model cutcam"),
        _OWN["cutcam"],
    ]
    return "\n".join(lines)
