"""Every flag there is: how it is typed, what the published code called it, and that somebody reads it.

After a deliberate change of flags: `python -m tests.options.test_flags > tests/golden/flags.txt`
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data import DATASETS
from models import MODELS
from models.terms import TERMS
from options import groups
from options.flags import MEANINGLESS, parse_flags, suggest
from options.groups import COMMON, Explanation, Inference
from options.parse import inference_options, train_options
from options.schema import Group, OptionError, fields_of, show, spec_of

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "flags.txt"
TRAIN = (*COMMON, MODELS.get("cut").Options, DATASETS.get("unaligned").Options)


def given(*argv: str) -> dict[str, Any]:
    return parse_flags(TRAIN, argv, "train.py", "")


# --- how flags are typed


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--no_flip"], {"no_flip": "True"}),
        (["--no_flip", "False"], {"no_flip": "False"}),
        (["--no_flip=False"], {"no_flip": "False"}),
        (["--no_flip", "--lr", "1"], {"no_flip": "True", "lr": "1"}),
        (["--lr=1e-3"], {"lr": "1e-3"}),
        (["--load_size", "286", "512", "--lr", "1"], {"load_size": ["286", "512"], "lr": "1"}),
        (["--load_size=286,512"], {"load_size": ["286,512"]}),
        (["--nce_layers", "0,4,8"], {"nce_layers": ["0,4,8"]}),
        (["--gpu_ids", "-1"], {"gpu_ids": "-1"}),
        (["--display_id", "-1"], {"display_id": "-1"}),
        (["--nce_layers", "-1,-2"], {"nce_layers": ["-1,-2"]}),
        (["--window_A", "-10,99.5"], {"window_A": "-10,99.5"}),
        ([], {}),
    ],
)
def test_given_flags_come_back_as_texts(argv: list[str], expected: dict[str, Any]) -> None:
    assert given(*argv) == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--lamda_GAN", "1"],
            "--lamda_GAN: no such flag (did you mean --lambda_GAN?); --help lists them all",
        ),
        (["--lamda_GAN=1"], "--lamda_GAN: no such flag (did you mean --lambda_GAN?); --help lists them all"),
        (["--zzzz"], "--zzzz: no such flag; --help lists them all"),
        (["--batch", "4"], "--batch: no such flag (did you mean --batch_size?); --help lists them all"),
        (["--LAMBDA_gan", "1"], "--LAMBDA_gan: no such flag (did you mean --lambda_GAN?); --help lists them all"),
        (["--niter", "4"], "--niter: no such flag (did you mean --n_epochs?); --help lists them all"),
        (["--niter_decay=4"], "--niter_decay: no such flag (did you mean --n_epochs_decay?); --help lists them all"),
        (["--n_epoch", "4"], "--n_epoch: no such flag (did you mean --n_epochs?); --help lists them all"),
        (["batch_size", "4"], "batch_size: belongs to no flag; flags begin with --"),
        (["-lr", "4"], "-lr: belongs to no flag; flags begin with --"),
        (["--lr"], "--lr: needs a value after it"),
    ],
)
def test_a_flag_that_is_none_suggests_the_nearest(argv: list[str], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        given(*argv)
    assert str(caught.value) == message


def test_no_flag_can_be_abbreviated() -> None:
    for name in ("load_siz", "dataro", "no_antialias_u"):
        with pytest.raises(OptionError, match=f"--{name}: no such flag"):
            given(f"--{name}", "x")


def test_suggest_names_nothing_far_away() -> None:
    assert suggest("qqq", ["lr", "ngf"]) == ""
    assert suggest("ngff", ["lr", "ngf"]) == " (did you mean --ngf?)"
    assert suggest("lambda_cam", ["lambda_R1", "lambda_CAM"]) == " (did you mean --lambda_CAM?)"
    assert suggest("niter", ["nesterov"]) == ""


@pytest.mark.parametrize("flag", sorted(MEANINGLESS))
def test_a_flag_without_a_meaning_is_accepted_with_its_reason(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([f"--{flag}"], [f"--{flag}", "3"], [f"--{flag}=x"]):
        assert given(*argv) == {}
        captured = capsys.readouterr()
        assert captured.err == f"--{flag} does nothing here: {MEANINGLESS[flag]}\n"
        assert captured.out == ""


def test_phase_means_something_where_a_split_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_flags((*TRAIN, Inference), ["--phase", "val"], "test.py", "") == {"phase": "val"}
    assert capsys.readouterr().err == ""


# --- help


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_every_script_is_there_without_a_run(
    flag: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        train_options(["--model", "cutcam", flag])
    assert stopped.value.code == 0
    assert "--lambda_CAM X" in capsys.readouterr().out
    for name in ([], ["--name", "absent"]):
        with pytest.raises(SystemExit) as stopped:
            inference_options((Inference, Explanation), [*name, flag], prog="cam_infer.py")
        assert stopped.value.code == 0
        text = capsys.readouterr().out
        assert "--class_idx N" in text
        assert "--config" not in text  # the run's own file is read


def everything() -> list[type[Group]]:
    """Every group of every script, model and data set."""
    kinds = [MODELS.get(name).Options for name in MODELS.names()]
    kinds += [DATASETS.get(name).Options for name in DATASETS.names()]
    kinds += [TERMS.get(name).Options for name in TERMS.names()]
    return list(dict.fromkeys([*COMMON, Inference, groups.Given, Explanation, *kinds]))


@pytest.mark.parametrize("kind", everything(), ids=lambda kind: kind.__name__)
def test_every_flag_says_in_one_line_what_it_does(kind: type[Group]) -> None:
    for name, (_, item) in fields_of(kind).items():
        text = spec_of(item).help
        assert 3 <= len(text) <= 110, name
        assert not text.endswith("."), name
        assert "\n" not in text, name
        assert "%%" not in text, f"{kind.__name__}.{name}: options/flags.py doubles the percent sign itself"


def test_the_defaults_of_every_group_can_be_used() -> None:
    for kind in everything():
        kind()


# --- the published options

# name -> published default when training, and when testing; ABSENT where CUT's parser has no such option.
ABSENT = "-"
PUBLISHED: dict[str, tuple[Any, Any]] = {
    "dataroot": ("placeholder", "placeholder"),
    "name": ("experiment_name", "experiment_name"),
    "easy_label": ("experiment_name", "experiment_name"),
    "gpu_ids": ("0", "0"),
    "checkpoints_dir": ("./checkpoints", "./checkpoints"),
    "model": ("cut", "cut"),
    "input_nc": (3, 3),
    "output_nc": (3, 3),
    "ngf": (64, 64),
    "ndf": (64, 64),
    "netD": ("basic", "basic"),
    "netG": ("resnet_9blocks", "resnet_9blocks"),
    "n_layers_D": (3, 3),
    "normG": ("instance", "instance"),
    "normD": ("instance", "instance"),
    "init_type": ("xavier", "xavier"),
    "init_gain": (0.02, 0.02),
    "no_dropout": (True, True),
    "no_antialias": (False, False),
    "no_antialias_up": (False, False),
    "dataset_mode": ("unaligned", "unaligned"),
    "direction": ("AtoB", "AtoB"),
    "serial_batches": (False, False),
    "num_threads": (4, 4),
    "batch_size": (1, 1),
    "load_size": ((286, 286), (256, 256)),
    "crop_size": ((256, 256), (256, 256)),
    "max_dataset_size": (float("inf"), float("inf")),
    "preprocess": ("resize_and_crop", "resize_and_crop"),
    "no_flip": (False, False),
    "display_winsize": (256, 256),
    "random_scale_max": (3.0, 3.0),
    "epoch": ("latest", "latest"),
    "verbose": (False, False),
    "suffix": ("", ""),
    "stylegan2_G_num_downsampling": (1, 1),
    "display_freq": (400, ABSENT),
    "display_ncols": (4, ABSENT),
    "display_id": (None, ABSENT),
    "display_server": ("http://localhost", ABSENT),
    "display_env": ("main", ABSENT),
    "display_port": (8097, ABSENT),
    "update_html_freq": (1000, ABSENT),
    "print_freq": (100, ABSENT),
    "no_html": (False, ABSENT),
    "save_latest_freq": (5000, ABSENT),
    "save_epoch_freq": (5, ABSENT),
    "evaluation_freq": (5000, ABSENT),
    "save_by_iter": (False, ABSENT),
    "continue_train": (False, ABSENT),
    "epoch_count": (1, ABSENT),
    "phase": ("train", "test"),
    "pretrained_name": (None, ABSENT),
    "n_epochs": (200, ABSENT),
    "n_epochs_decay": (200, ABSENT),
    "beta1": (0.5, ABSENT),
    "beta2": (0.999, ABSENT),
    "lr": (0.0002, ABSENT),
    "gan_mode": ("lsgan", ABSENT),
    "pool_size": (0, ABSENT),
    "lr_policy": ("linear", ABSENT),
    "lr_decay_iters": (50, ABSENT),
    "CUT_mode": ("CUT", "CUT"),
    "lambda_GAN": (1.0, 1.0),
    "lambda_NCE": (1.0, 1.0),
    "nce_idt": (True, True),
    "nce_layers": ((0, 4, 8, 12, 16), (0, 4, 8, 12, 16)),
    "nce_includes_all_negatives_from_minibatch": (False, False),
    "netF": ("mlp_sample", "mlp_sample"),
    "netF_nc": (256, 256),
    "nce_T": (0.07, 0.07),
    "num_patches": (256, 256),
    "flip_equivariance": (False, False),
    "results_dir": (ABSENT, "./results/"),
    "eval": (ABSENT, False),
    "num_test": (ABSENT, 50),
}
OUR_OWN = {
    "dataroot": "",  # a placeholder cannot be read: the flag is needed
    "gpu_ids": "auto",  # works with and without a GPU
}
TEST_OWN = {"load_size"}  # at test time images come to crop_size, 256, whatever load_size is
# The published CUTCAM, where CUT has no such option.
PUBLISHED_CUTCAM = {
    "lambda_CAM": 25.0,
    "lambda_CLS": 1.0,
    "lambda_IDT": 0.0,
    "lambda_EDGE": 0.0,
    "num_classes": 7,
    "cam_layer": -1,
    "cam_weight_adv": False,
    "batch_size": 1,
}
MEASURED_CUTCAM = {"lambda_CLS": 0.1}  # docs/results.md: ten times as much was worse wherever both were tried


@pytest.mark.parametrize("model", ["cut", "cutcam"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_option_is_here_with_its_default_or_accepted(model: str, name: str) -> None:
    kinds = (*COMMON, MODELS.get(model).Options, DATASETS.get("unaligned").Options)
    for column, own in enumerate((kinds, (*kinds, Inference))):
        published = PUBLISHED[name][column]
        here = {field: item.default for kind in own for field, (_, item) in fields_of(kind).items()}
        if name in here and name not in (TEST_OWN if column else ()):
            special = "CUTCAM" if (name, model) == ("CUT_mode", "cutcam") else published
            expected = OUR_OWN.get(name, special)
            assert expected == ABSENT or here[name] == expected
        elif name not in here:
            assert published == ABSENT or name in MEANINGLESS


def test_the_published_defaults_of_cutcam() -> None:
    run = train_options(["--dataroot", "data", "--model", "cutcam"])
    here = {name: getattr(group, name) for group in run.groups() for name in fields_of(type(group))}
    assert {name: here[name] for name in PUBLISHED_CUTCAM} == PUBLISHED_CUTCAM | MEASURED_CUTCAM


# --- the frozen list


def flag_list() -> str:
    """Every flag of every script with its default, a line each."""
    parts = []
    kinds: dict[str, list[type[Group]]] = {
        "every script": [*COMMON, *(DATASETS.get(name).Options for name in DATASETS.names())],
        **{f"--model {name}": [MODELS.get(name).Options] for name in MODELS.names()},
        **{f"--extra_losses {name}": [TERMS.get(name).Options] for name in TERMS.names()},
        "test.py, cam_infer.py": [Inference, groups.Given],
        "cam_infer.py": [Explanation],
    }
    for title, group in kinds.items():
        flags = {name: item.default for kind in group for name, (_, item) in fields_of(kind).items()}
        parts.append("\n".join([f"## {title}", *sorted(f"--{n} {show(d)}".strip() for n, d in flags.items())]))
    return "\n\n".join([*parts, "## accepted without effect\n" + "\n".join(sorted(MEANINGLESS))]) + "\n"


def test_no_flag_is_gone_and_no_default_has_changed_unnoticed() -> None:
    expected, got = GOLDEN.read_text().splitlines(), flag_list().splitlines()
    gone, new = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    difference = f"gone: {gone}, new: {new}" if gone or new else ""
    assert difference == "", "if that is meant: python -m tests.options.test_flags > tests/golden/flags.txt"
    assert got == expected


# --- who reads what

# A group is always at hand under one of these names, so that reads of `run.data.crop_size` can be found.
HANDLES: dict[type[Group], set[str]] = {
    groups.Experiment: {"experiment"},
    groups.Data: {"data"},
    groups.Networks: {"networks", "nets"},
    groups.Optim: {"optim", "opt"},
    groups.Schedule: {"schedule"},
    groups.Log: {"log"},
    groups.Runtime: {"runtime"},
    Inference: {"wanted"},
    Explanation: {"look"},
    groups.Given: {"given"},
}
MODEL_HANDLES, DATASET_HANDLES = {"opt", "model"}, {"options", "dataset"}
# Read while the options are put together, or by a name that is not typed out.
READ_IN_OPTIONS = {
    "suffix": "options/parse makes it a part of the name",
    "CUT_mode": "presets are chosen by it",
    "checkpoints_dir": "a part of RunOptions.folder",
}


def reads_of(source: str) -> Iterator[tuple[str, str]]:
    """(last name before the dot, attribute) of every attribute that is read."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            if isinstance(node.value, ast.Attribute):
                yield node.value.attr, node.attr
            elif isinstance(node.value, ast.Name):
                yield node.value.id, node.attr


def all_reads() -> set[tuple[str, str]]:
    files = [ROOT / name for name in ("train.py", "test.py", "cam_infer.py")]
    files += [file for room in ("models", "data", "util", "scripts") for file in (ROOT / room).rglob("*.py")]
    return {pair for file in files for pair in reads_of(file.read_text(encoding="utf-8"))}


def test_reads_are_found_by_the_name_before_the_dot() -> None:
    found = set(reads_of("a = run.data.crop_size + opt.lr\nself.data = 3\nrun.log.quiet = 1"))
    assert {("data", "crop_size"), ("opt", "lr")} <= found
    assert ("self", "data") not in found
    assert ("log", "quiet") not in found


def test_every_option_has_a_reader() -> None:
    reads = all_reads()
    unread = []
    for kind in everything():
        handles = HANDLES.get(kind)
        if handles is None:
            handles = DATASET_HANDLES if kind in {DATASETS.get(n).Options for n in DATASETS.names()} else MODEL_HANDLES
        unread += [
            f"{kind.__name__}.{name}"
            for name in fields_of(kind)
            if name not in READ_IN_OPTIONS and not any((handle, name) in reads for handle in handles)
        ]
    assert unread == []


def test_options_read_elsewhere_really_are() -> None:
    files = [ROOT / "options" / "parse.py", ROOT / "models" / "cut_options.py"]
    source = "".join(file.read_text() for file in files)
    for name in READ_IN_OPTIONS:
        assert re.search(rf'(experiment\.|given\.get\("){name}\b', source), name


if __name__ == "__main__":
    print(flag_list(), end="")
