"""The command line of the published F-CAM (main_wsol.py) as flags of ours, by a table.

Each published flag has a flag here, or a reason why it has nothing to say; flags that are not published are ours and
pass as they are. Terms of F-CAM's loss are off there unless they are switched on, and so they are here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.wsol_dataset import SPLITS_FOLDER
from data.wsol_splits import CUB_IMAGES, PAGES
from options.flags import flag_of
from options.schema import OptionError, shorten

CLASSIFIER, FCAM = "STD_CL", "F_CL"
MODELS_OF = {CLASSIFIER: "std_cl", FCAM: "fcam"}
ARCHS = {CLASSIFIER: "STDClassifier", FCAM: "UnetFCAM"}
# Data sets by name, with the places below the data root that their images may lie in.
DATA_SETS = {name: (Path(name), *([CUB_IMAGES] if name == "CUB" else [])) for name in PAGES}
DATA_ROOT, SPLITS_ROOT = "CUTCAM_WSOL_DATA", "CUTCAM_WSOL_SPLITS"  # environment variables
TEACHERS = {
    **{name: name for name in ("cam", "scorecam", "sscam", "iscam", "gradcam", "xgradcam", "layercam")},
    "gradcampp": "gradcam++",
    "smoothgradcampp": "smoothgradcam++",
    **dict.fromkeys(("wildcat", "gap", "maxpol", "maxpool", "logsumexp", "logsumexppool"), "builtin"),
}
POOLINGS = {
    **{name.lower(): name for name in ("WGAP", "GAP", "MaxPool", "LogSumExpPool", "WILDCAT")},
    "wildcatclhead": "WILDCAT",
}
OPTIMIZERS = {"sgd": "sgd", "adam": "adam"}
SCHEDULES = {"mystep": "step", "step": "step", "mycosine": "cosine", "cosine": "cosine"}


@dataclass
class Reading:
    """A command that is being read.

    Attributes:
        given: published flags with their values, as texts.
        options: ours so far, by name.
        notes: what the user must know.
    """

    given: Mapping[str, str]
    options: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        return self.given.get("task", "")

    def note(self, flag: str, reason: str) -> None:
        self.notes.append(f"--{flag} {self.given.get(flag, '')}: {reason}".replace(" :", ":"))


Reader = Callable[[Reading, str, str], None]


def is_true(flag: str, text: str) -> bool:
    """The value of a switch.

    Raises:
        OptionError: neither true nor false.
    """
    word = text.lower()
    if word not in ("true", "false", "1", "0", "yes", "no"):
        raise OptionError(f"--{flag} {shorten(text)}: is True or False")
    return word in ("true", "1", "yes")


# --- what is read how


def _same_as(option: str, task: str = "") -> Reader:
    """The value is that of an option of ours, which checks it; of one task only where that is named."""

    def read(reading: Reading, flag: str, value: str) -> None:
        if task and reading.task != task:
            reading.note(flag, f"belongs to --task {task} and changes nothing")
        else:
            reading.options[option] = value

    return read


def _without_meaning(reason: str) -> Reader:
    def read(reading: Reading, flag: str, value: str) -> None:
        reading.note(flag, f"has no meaning here: {reason}")

    return read


def _one_of(option: str, words: Mapping[str, str], task: str = "") -> Reader:
    same = _same_as(option, task)

    def read(reading: Reading, flag: str, value: str) -> None:
        word = re.sub("[^a-z0-9]", "", value.lower().replace("++", "pp"))
        if word not in words:
            raise OptionError(f"--{flag} {shorten(value)}: choose one of {', '.join(words)}")
        same(reading, flag, words[word])

    return read


def _of_the_classifier(option: str, words: Mapping[str, str] | None = None) -> Reader:
    """For a classifier it is said here; F-CAM has it from the classifier's run."""
    own = _one_of(option, words, CLASSIFIER) if words else _same_as(option, CLASSIFIER)

    def read(reading: Reading, flag: str, value: str) -> None:
        if reading.task == FCAM:
            reading.note(flag, "is said by the classifier of --classifier_run")
        else:
            own(reading, flag, value)

    return read


def _term(weight: str, given_weight: str = "", default: str = "") -> Reader:
    """A switch of a term of the loss: off is a weight of 0.

    Args:
        given_weight: the published flag of the weight.
        default: weight of a term that is switched on without one; none: ours.
    """

    def read(reading: Reading, flag: str, value: str) -> None:
        if reading.task != FCAM:
            if is_true(flag, value):
                reading.note(flag, f"belongs to --task {FCAM} and changes nothing")
        elif not is_true(flag, value):
            reading.options[weight] = "0"
        elif given_weight in reading.given and given_weight != "crf_lambda":
            reading.options[weight] = reading.given[given_weight]
        elif default:
            reading.options[weight] = default

    return read


def _crf_lambda(reading: Reading, flag: str, value: str) -> None:
    if reading.task == FCAM and is_true("crf_fc", reading.given.get("crf_fc", "False")):
        reading.options["crf_lambda"] = value


def _nothing(reading: Reading, flag: str, value: str) -> None:
    """Read together with another flag."""


def _arch(reading: Reading, flag: str, value: str) -> None:
    if value != ARCHS[reading.task]:
        raise OptionError(f"--arch {shorten(value)}: --task {reading.task} goes with {ARCHS[reading.task]}")


def _freeze(reading: Reading, flag: str, value: str) -> None:
    if is_true(flag, value) != (reading.task == FCAM):
        kept = "keeps its classifier frozen" if reading.task == FCAM else "trains the classifier"
        raise OptionError(f"--freeze_cl {shorten(value)}: --task {reading.task} {kept} here")


def _step_size(reading: Reading, flag: str, value: str) -> None:
    reading.options["lr_decay_iters"] = value
    _schedule(reading, flag, reading.given.get("opt__name_lr_scheduler", "mystep"))


def _schedule(reading: Reading, flag: str, value: str) -> None:
    """The policy; whether there is one says another flag."""
    if "opt__lr_scheduler" in reading.given and not is_true("opt__lr_scheduler", reading.given["opt__lr_scheduler"]):
        reading.options["lr_policy"] = "none"
    elif value.lower() in SCHEDULES:
        reading.options["lr_policy"] = SCHEDULES[value.lower()]
    else:
        raise OptionError(f"--{flag} {shorten(value)}: choose one of {', '.join(SCHEDULES)}")


def _scheduled(reading: Reading, flag: str, value: str) -> None:
    if not is_true(flag, value):
        reading.options["lr_policy"] = "none"


def _first_weights(reading: Reading, flag: str, value: str) -> None:
    if value.lower() not in ("imagenet", "none"):
        raise OptionError(f"--{flag} {shorten(value)}: choose one of imagenet, None")
    _of_the_classifier("pretrained")(reading, flag, str(value.lower() == "imagenet"))


def _splits(reading: Reading, flag: str, value: str) -> None:
    """Read together with --dataset where that is given: then there is a folder of each data set's."""
    if "dataset" not in reading.given:
        reading.options["wsol_splits"] = value


def _epochs(reading: Reading, flag: str, value: str) -> None:
    reading.options |= {"n_epochs": value, "n_epochs_decay": "0"}


def _device(reading: Reading, flag: str, value: str) -> None:
    if value:
        reading.options["gpu_ids"] = value


def _which_epoch(reading: Reading, flag: str, value: str) -> None:
    if value not in ("best", "last"):
        raise OptionError(f"--{flag} {shorten(value)}: choose one of best, last")
    if value == "best":
        reading.note(
            flag,
            "runs end with their last epoch unless --select says otherwise; the published best is that of the boxes or "
            "masks of held-out images: --select best_loc",
        )


def _box_version(reading: Reading, flag: str, value: str) -> None:
    version = "MaxBoxAccV2" if is_true(flag, value) else "MaxBoxAcc"
    reading.options["loc_measure"] = "auto" if reading.given.get("dataset") == "OpenImages" else version


def _data_set(reading: Reading, flag: str, value: str) -> None:
    if value not in DATA_SETS:
        raise OptionError(
            f"--dataset {shorten(value)}: choose one of {', '.join(DATA_SETS)}; for images of your own give "
            "--dataset_mode wsol --dataroot DIR in its place"
        )
    root = reading.given.get("data_root") or os.environ.get(DATA_ROOT, "")
    if not root:
        raise OptionError(f"--dataset {value}: say where it lies by --data_root DIR or {DATA_ROOT}=DIR (DIR/{value})")
    places = [Path(root) / place for place in DATA_SETS[value]]
    there = [place for place in places if place.is_dir()]
    prepared = [place for place in there if (place / SPLITS_FOLDER).is_dir()]
    reading.options |= {"dataset_mode": "wsol", "dataroot": str([*prepared, *there, *places][0])}
    given = reading.given
    splits = given.get("splits_root") or given.get("metadata_root") or os.environ.get(SPLITS_ROOT, "")
    if splits:
        reading.options["wsol_splits"] = str(Path(splits) / value)


def _name(reading: Reading, flag: str, value: str) -> None:
    folder = reading.given.get("debug_subfolder", "None")
    reading.options["name"] = value if folder in ("", "None") else f"{folder}/{value}"


READERS: dict[str, Reader] = {
    "task": lambda reading, flag, value: reading.options.update(model=MODELS_OF[value]),
    "encoder_name": _of_the_classifier("arch"),
    "arch": _arch,
    "opt__name_optimizer": _one_of("optimizer", OPTIMIZERS),
    "opt__lr": _same_as("lr"),
    "opt__step_size": _step_size,
    "opt__gamma": _same_as("lr_gamma"),
    "opt__momentum": _same_as("momentum"),
    "opt__nesterov": _same_as("nesterov"),
    "opt__weight_decay": _same_as("weight_decay"),
    "opt__dampening": _without_meaning("momentum is not dampened"),
    "opt__beta1": _same_as("beta1"),
    "opt__beta2": _same_as("beta2"),
    "opt__eps_adam": _without_meaning("it is 1e-8, PyTorch's"),
    "opt__amsgrad": _without_meaning("Adam is the plain one"),
    "opt__lr_scheduler": _scheduled,
    "opt__name_lr_scheduler": _schedule,
    "opt__last_epoch": _without_meaning("the rate falls to the end of the run"),
    "opt__min_lr": _without_meaning("steps have no lowest rate"),
    "opt__t_max": _without_meaning("a cosine ends with the last epoch"),
    "opt__lr_classifier_ratio": _same_as("head_lr_factor", CLASSIFIER),
    "MYSEED": _same_as("seed"),
    "resize_size": _same_as("load_size"),
    "in_channels": _same_as("input_nc"),
    "num_classes": _of_the_classifier("num_classes"),
    "encoder_weights": _first_weights,
    "path_pre_trained": _without_meaning(
        "weights of another program; --pretrained_name RUN begins with a run's, --arch_weights FILE with torchvision's"
    ),
    "folder_pre_trained_cl": _without_meaning("the classifier is the run that --classifier_run names"),
    "strict": _without_meaning("weights have to fit"),
    "scale_in": _without_meaning("images go in at --crop_size"),
    "batch_size": _same_as("batch_size"),
    "max_epochs": _epochs,
    "num_workers": _same_as("num_threads"),
    "freeze_cl": _freeze,
    "support_background": _without_meaning("the map of the background, which no term of the loss reaches, is not made"),
    "method": _one_of("teacher", TEACHERS, FCAM),
    "spatial_pooling": _of_the_classifier("spatial_pooling", POOLINGS),
    "dataset": _data_set,
    "data_root": _nothing,
    "splits_root": _splits,
    "metadata_root": _splits,
    "mask_root": _without_meaning("masks lie where the split files say, below the data root"),
    "proxy_training_set": _without_meaning("--max_dataset_size N trains on fewer images"),
    "num_val_sample_per_class": _without_meaning("every held-out image counts; --val_size N takes fewer"),
    "multi_label_flag": _without_meaning("an image has one class"),
    "fd_exp": _without_meaning("a run lies in --checkpoints_dir, under its --name"),
    "cam_curve_interval": _without_meaning("scores are made afterwards, by evaluate.py --step"),
    "multi_contour_eval": _without_meaning("MaxBoxAcc takes the largest contour and MaxBoxAccV2 all of them"),
    "multi_iou_eval": _without_meaning("MaxBoxAcc goes by IoU 50 % and MaxBoxAccV2 by 30, 50 and 70 %"),
    "seg_mode": _without_meaning("there is foreground and background"),
    "seg_ignore_idx": _without_meaning("pixels without a seed are never counted"),
    "wc_modalities": _of_the_classifier("wildcat_modalities"),
    "wc_kmax": _of_the_classifier("wildcat_kmax"),
    "wc_kmin": _of_the_classifier("wildcat_kmin"),
    "wc_alpha": _of_the_classifier("wildcat_alpha"),
    "wc_dropout": _without_meaning("the pooling has no dropout"),
    "lse_r": _of_the_classifier("lse_r"),
    "box_v2_metric": _box_version,
    "cudaid": _device,
    "debug_subfolder": _nothing,
    "exp_id": _name,
    "eval_checkpoint_type": _which_epoch,
    "elb_init_t": _same_as("elb_init_t", FCAM),
    "elb_max_t": _same_as("elb_max_t", FCAM),
    "elb_mulcoef": _same_as("elb_mulcoef", FCAM),
    "sl_fc": _term("lambda_SL", "sl_fc_lambda"),
    "sl_fc_lambda": _nothing,
    "sl_start_ep": _same_as("sl_start_ep", FCAM),
    "sl_end_ep": _same_as("sl_end_ep", FCAM),
    "sl_min": _same_as("sl_min", FCAM),
    "sl_max": _same_as("sl_max", FCAM),
    "sl_ksz": _same_as("sl_ksz", FCAM),
    "sl_min_p": _same_as("sl_min_p", FCAM),
    "sl_fg_erode_k": _same_as("sl_fg_erode_k", FCAM),
    "sl_fg_erode_iter": _same_as("sl_fg_erode_iter", FCAM),
    "sl_block": _without_meaning("it belongs to seeds that the published code no longer draws"),
    "sl_min_ext": _without_meaning("it belongs to seeds that the published code no longer draws"),
    "sl_max_ext": _without_meaning("it belongs to seeds that the published code no longer draws"),
    "crf_fc": _term("lambda_CRF", "crf_lambda"),
    "crf_lambda": _crf_lambda,
    "crf_sigma_rgb": _same_as("crf_sigma_rgb", FCAM),
    "crf_sigma_xy": _same_as("crf_sigma_xy", FCAM),
    "crf_scale": _same_as("crf_scale", FCAM),
    "crf_start_ep": _same_as("crf_start_ep", FCAM),
    "crf_end_ep": _same_as("crf_end_ep", FCAM),
    "max_sizepos_fc": _term("lambda_SIZE", "max_sizepos_fc_lambda"),
    "max_sizepos_fc_lambda": _nothing,
    "max_sizepos_fc_start_ep": _same_as("size_start_ep", FCAM),
    "max_sizepos_fc_end_ep": _same_as("size_end_ep", FCAM),
    "entropy_fc": _term("lambda_ENT", "entropy_fc_lambda", "1"),
    "entropy_fc_lambda": _nothing,
    "entropy_fc_start_ep": _same_as("ent_start_ep", FCAM),
    "entropy_fc_end_ep": _same_as("ent_end_ep", FCAM),
    "im_rec": _without_meaning("the published code refuses it too"),
    "im_rec_lambda": _without_meaning("it belongs to --im_rec, which the published code refuses too"),
    "im_rec_elb": _without_meaning("it belongs to --im_rec, which the published code refuses too"),
}
TERMS = ("sl_fc", "crf_fc", "max_sizepos_fc", "entropy_fc")


def train_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A published command as one of train.py.

    Returns:
        Flags for train.py, and what the user must know, a line each.

    Raises:
        OptionError: no task, a value that cannot be used, or F-CAM without a term or a classifier.
    """
    given, ours = _split(argv)
    if given.get("task") not in MODELS_OF:
        raise OptionError(
            f"--task {shorten(given.get('task', '')) or 'is missing'}: choose one of {', '.join(MODELS_OF)}"
        )
    reading = Reading(given)
    said = {flag_of(word) for word in ours if word.startswith("--")}
    if reading.task == FCAM:
        for term in TERMS:
            given.setdefault(term, "False")
        if not any(is_true(term, given[term]) for term in TERMS):
            raise OptionError(f"--task {FCAM}: trains by one of {', '.join(f'--{term} True' for term in TERMS)}")
        if "classifier_run" not in said:
            raise OptionError(
                f"--task {FCAM}: name the run of the trained classifier by --classifier_run RUN, in place of the "
                "published folder pretrained/"
            )
    given.setdefault("exp_id", _default_name(given))
    chosen = {*said, *given} & {"pretrained", "arch_weights", "continue_train", "encoder_weights"}
    if reading.task == CLASSIFIER and not chosen:
        reading.options["pretrained"] = "True"
        reading.notes.append("first weights are ImageNet's, as published; --pretrained False begins with random ones")
    for flag, value in given.items():
        READERS[flag](reading, flag, value)
    return [*(f"--{name}={value}" for name, value in reading.options.items()), *ours], reading.notes


def _split(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Published flags with their values, and the other words."""
    given: dict[str, str] = {}
    ours: list[str] = []
    target: str | None = None  # the published flag that the next word is the value of
    for word in argv:
        flag = flag_of(word) if word.startswith("--") else ""
        if flag in READERS:
            given[flag], target = (word.partition("=")[2], None) if "=" in word else ("", flag)
        elif flag or target is None:
            ours.append(word)
            target = None
        else:
            given[target], target = word, None
    # A flag that stands alone, as `--cudaid $cudaid` does where the variable is empty.
    switches = {*TERMS, "freeze_cl", "support_background", "box_v2_metric", "opt__nesterov"}
    for flag, value in given.items():
        if not value and flag in switches:
            given[flag] = "True"
        elif not value and flag not in ("cudaid", "debug_subfolder"):
            raise OptionError(f"--{flag}: needs a value after it")
    return given, ours


def _default_name(given: Mapping[str, str]) -> str:
    words = (given.get(flag, "") for flag in ("dataset", "task", "encoder_name", "method"))
    return "-".join(re.sub(r"[^\w.+-]", "_", word) for word in words if word)
