"""Every wrong flag costs one line. A row of a table is a command, and the words that the one line must hold."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.commands import run
from tests.mistakes.one_line import EQUAL, LEADS, LEAVE_OUT, TRAIN, USE, costs_one_line

# --- flags of train.py

CUT, CUTCAM = "--model cut", "--model cutcam --num_classes 4"
FLAGS = [
    # ranges, types, words
    (CUT, "--batch_size 0", "--batch_size 0: must be at least 1"),
    (CUT, "--lr nan", "--lr nan: is no number"),
    (CUT, "--lr inf", "--lr inf: must be a finite number"),
    (CUT, "--lr 1e400", "--lr inf: must be a finite number"),
    (CUT, "--lambda_NCE -1", "--lambda_NCE -1.0: must be at least 0"),
    (CUT, "--lr=", "--lr: has no value; expected a number"),
    (CUT, "--lr", "--lr: needs a value after it"),
    (CUT, "--max_iters inf", "--max_iters inf: expected a whole number"),
    (CUT, "--max_dataset_size nan", "--max_dataset_size nan: is no number"),
    (CUT, "--beta1 1", "--beta1 1.0: must be between 0 and 0.999999"),
    (CUT, "--seed 99999999999999999999", "must be between 0 and 4294967295"),
    (CUT, "--nce_idt maybe", "--nce_idt maybe: expected True or False"),
    (CUT, "--direction CtoD", "--direction CtoD: choose one of AtoB, BtoA"),
    (CUT, "--direction ''", "--direction '': choose one of AtoB, BtoA"),
    (CUT, "--amp fp8", "--amp fp8: choose one of off, bf16, fp16"),
    (CUT, "--netG nosuch", "--netG nosuch: unknown netG 'nosuch': choose one of resnet_9blocks"),
    (CUT, "--output_nc 2", "--output_nc 2: images have 1 channel (grey) or 3 (RGB)"),
    (CUT, "--n_epochs 0", "--epoch_count 1: the last epoch is 0; raise --n_epochs"),
    (CUT, "--epoch_count 9", "--epoch_count 9: the last epoch is 1; raise --n_epochs"),
    (CUTCAM, "--num_classes 1", "--num_classes 1: must be at least 2"),
    (CUTCAM, "--lambda_CAM inf", "--lambda_CAM inf: must be a finite number"),
    (CUTCAM, "--cls_start_epoch inf", "--cls_start_epoch inf: must be a finite number"),
    # flags that are none
    (CUT, "--lamda_GAN 1", "--lamda_GAN: no such flag (did you mean --lambda_GAN?)"),
    (CUT, "--qqqqqqqq 1", "--qqqqqqqq: no such flag; --help lists them all"),
    (CUT, "-lr 1", "-lr: belongs to no flag; flags begin with --"),
    (CUT, "leftover", "leftover: belongs to no flag; flags begin with --"),
    (CUT, "--lambda_CAM 3", "--lambda_CAM: belongs to --model cutcam"),
    (CUT, "--lambda_cam 3", "--lambda_cam: belongs to --model cutcam"),
    (CUTCAM, "--lambda_cam 3", "--lambda_cam: no such flag (did you mean --lambda_CAM?)"),
    (CUT, "--NGF 3", "--NGF: no such flag (did you mean --ngf?)"),
    ("", "--model nosuch", "--model nosuch: unknown; known: "),
    (CUT, "--dataset_mode nosuch", "--dataset_mode nosuch: unknown; known: "),
    # layers
    (CUTCAM, "--cam_layer 5", "--cam_layer 5: --nce_layers names 5 layers, so it must be in -5..4"),
    (CUTCAM, "--cam_layer -6", "--cam_layer -6: --nce_layers names 5 layers, so it must be in -5..4"),
    (CUTCAM, "--nce_layers 0,99", "--nce_layers 0,99: no layer 99 in ResnetGenerator: valid ids are 0, 1"),
    (CUTCAM, "--nce_layers -1,4", "--nce_layers -1,4: must be at least 0"),
    (CUTCAM, "--nce_layers 0,4,4", "--nce_layers 0,4,4: names a layer twice; write 0,4"),
    (CUTCAM, "--nce_layers 16,4,0", "--nce_layers 16,4,0: is not in rising order; write 0,4,16"),
    (CUTCAM, "--nce_layers ''", "--nce_layers: name at least one layer"),
    (CUTCAM, "--nce_layers ,", "--nce_layers: name at least one layer"),
    # options that contradict each other
    (CUTCAM, "--input_nc 1 --lambda_IDT 1", f"--input_nc 1 and --output_nc 3: * {EQUAL}"),
    (CUT, "--input_nc 1 --nce_idt", f"--input_nc 1 and --output_nc 3: * {EQUAL}"),
    (CUT, "--load_size 32 --crop_size 64", "--crop_size 64 is larger than --load_size 32*raise --load_size or lower"),
    (CUT, "--crop_size 30", "--crop_size 30,30: --netG resnet_6blocks needs multiples of 4, for example 32,32"),
    (CUT, "--preprocess resize --crop_size 30", "--crop_size 30,30: *for example 32,32"),
    (CUT, "--preprocess patch --crop_size 30", "--crop_size 30,30: *for example 32,32"),
    (
        CUT,
        "--netG unet_256 --load_size 286 --crop_size 200",
        "--crop_size 200,200: --netG unet_256 needs multiples of 256, for example 256,256",
    ),
    (CUT, "--netG unet_128 --crop_size 64,128", "--crop_size 64,128: *for example 128,128"),
    (CUT, "--preprocess foo", "--preprocess does not know 'foo'; its words are resize"),
    (CUT, "--preprocess resize_and_none", "--preprocess none stands alone; leave out the other words"),
    (CUT, "--gan_mode wgangp --normD batch", "--gan_mode wgangp: *use --normD instance"),
    (CUT, "--window_A 5,1", "--window_A 5,1: a window needs finite LO < HI"),
    (CUT, "--window_A 10", "--window_A 10: window '10' is none of auto, image, LO,HI (counts) and LO%,HI%"),
    (CUT, "--window_B nan,1", "--window_B nan,1: a window needs finite LO < HI"),
    (CUT, "--window_B 5%,200%", "--window_B 5%,200%: *percentiles lie between 0% and 100%"),
    # what loads but cannot be trained with
    (
        CUTCAM,
        "--cam_method gradcam_feature --cam_pool lse",
        "--cam_pool lse: *use --cam_pool gap, or --cam_method gradcam",
    ),
    (
        CUTCAM,
        "--cam_method gradcam_feature --cam_pool topk",
        "--cam_method gradcam_feature --cam_pool topk: its closed",
    ),
    (
        CUTCAM,
        "--cam_weight_adv --netD stylegan2",
        "--cam_weight_adv --netD stylegan2: *one value an image*another --netD",
    ),
    (CUTCAM, "--cam_eps 0", "--cam_eps 0.0: must be at least 1e-12"),
    (CUT, "--lambda_GAN 0 --lambda_NCE 0", "--lambda_GAN 0, --lambda_NCE 0: nothing would be trained; give one"),
    (
        CUTCAM,
        "--lambda_GAN 0 --lambda_NCE 0 --lambda_CLS 0 --lambda_CAM 0",
        "--lambda_CLS 0, --lambda_CAM 0, --lambda_IDT 0, --lambda_EDGE 0: nothing would be trained",
    ),
    ("--model dclgan", "--lambda_GAN 0 --lambda_NCE 0 --lambda_IDT 0", "--lambda_IDT 0: nothing would be trained"),
    ("--model sincut", "--lambda_GAN 0 --lambda_NCE 0 --lambda_identity 0", "--lambda_identity 0: nothing would be"),
    # images that are too small for D or G, or too large for every position
    (CUT, "--load_size 20 --crop_size 16", "--crop_size 16,16: --netD basic halves*sides of 24*--n_layers_D 2"),
    (CUT, "--crop_size 12", "--crop_size 12,12: --netD basic *needs sides of 24 or more; raise --crop_size, or take"),
    (CUT, "--crop_size 32 16", "--crop_size 32,16: --netD basic halves images 3 times and needs sides of 24 or more"),
    (CUT, "--crop_size 16 --normD batch", "--crop_size 16,16: --netD basic halves images 3 times"),
    (
        CUT,
        "--preprocess resize --load_size 20",
        "--load_size 20,20: --netD basic *raise --load_size, or take --netD n_l",
    ),
    (CUT, "--netD n_layers --n_layers_D 7", "--netD n_layers halves images 7 times*sides of 384*--n_layers_D 3"),
    (
        CUT,
        "--netD n_layers --n_layers_D 1 --crop_size 4",
        "--crop_size 4,4: --netG resnet_6blocks needs sides of 8 or more",
    ),
    ("--model cycle_gan", "--crop_size 16", "--crop_size 16,16: --netD basic halves images 3 times"),
    (
        CUT,
        "--netF reshape --load_size 256 --crop_size 256",
        "--netF reshape: *68644 x 68644 numbers (19 GB) in layer 0 of --nce_layers; leave that layer out, lower",
    ),
    # names and places
    (CUT, "--name ../x", f"--name ../x: {LEADS}"),
    (CUT, "--name a/../../x", f"--name a/../../x: {LEADS}"),
    (CUT, "--name /abs", f"--name /abs: {LEADS}"),
    (CUT, "--name .", f"--name .: {LEADS}"),
    (CUT, "--name ''", "--name '': is empty; give a plain name"),
    (CUT, "--name=", "--name '': is empty; give a plain name"),
    (CUT, "--name 'a\nb'", "--name a\\nb: holds a line break"),
    (CUT, f"--name {'x' * 201}", "xxx...: is longer than 200 bytes; give a plain name"),
    (CUT, "--suffix 'a\nb'", "--name new_a\\nb: holds a line break"),
    (CUT, "--suffix {nosuch}", "--suffix {nosuch}: 'nosuch' is no option; write options as {netG}"),
    (CUT, "--suffix '{'", "--suffix {: Single '{' encountered"),
    (CUT, "--suffix {netG.__class__}", "--suffix {netG.__class__}: *attribute*write options as {netG}"),
    (CUT, "--suffix '{netG:>99999999}'", "--suffix {netG:>99999999}: *write options as {netG}"),
    (CUT, "--epoch ../x", f"--epoch ../x: {LEADS}"),
    (CUT, "--checkpoints_dir data/labels.csv", "--checkpoints_dir: data/labels.csv is no folder; give another place"),
    (CUT, "--checkpoints_dir ''", "--checkpoints_dir '': is empty; give a path"),
    (CUT, "--checkpoints_dir 'a\nb'", "--checkpoints_dir a\\nb: holds a line break"),
    (CUT, "--dataroot 'a\nb'", "--dataroot a\\nb: holds a line break"),
    (CUT, "--labels_A 'a\nb'", "--labels_A a\\nb: holds a line break"),
    (CUT, "--dataroot nowhere", "--dataroot nowhere: no such folder"),
    (CUT, "--dataroot data/labels.csv", "--dataroot data/labels.csv: no such folder"),
    (CUT, "--dataroot ''", "--dataroot: give the folder that holds trainA and trainB"),
    (CUT, "--config nosuch.yaml", "nosuch.yaml: cannot be read as a YAML file of options: No such file"),
    (CUT, "--config 'a\nb'", "--config a\\nb: holds a line break"),
    (CUT, "--config data", "data: cannot be read as a YAML file of options: Is a directory"),
    (CUT, "--config data/labels.csv", "data/labels.csv: must hold lines of the form `option: value`"),
    (CUT, "--config data/trainA/00.png", "data/trainA/00.png: is no valid YAML"),
    # devices
    (CUT, "--gpu_ids 77", "--gpu_ids 77: this machine shows * usable GPUs; --gpu_ids -1 uses the CPU"),
    (CUT, "--gpu_ids x", "--gpu_ids x: give the number of a GPU, -1 (the CPU) or auto"),
    (CUT, "--gpu_ids ''", "--gpu_ids '': give the number of a GPU"),
    (CUT, "--gpu_ids 0,1", "--gpu_ids 0,1: one process uses one GPU; for several start torchrun"),
    # runs that are there, and those that are not
    (CUT, "--name plain", "checkpoints/plain already holds a run: add --continue_train to continue it"),
    (
        CUT,
        "--continue_train",
        "--continue_train: there is no run new in checkpoints; there are: *; correct --name or --checkpoints_dir",
    ),
    (CUT, "--continue_train maybe", "--continue_train maybe: expected True or False"),
    (CUT, "--pretrained_name nosuch", "--pretrained_name nosuch: checkpoints/nosuch does not exist; give the name"),
    (CUT, "--pretrained_name ../x", f"--pretrained_name ../x: {LEADS}"),
    (
        "--model cycle_gan",
        "--pretrained_name run",
        "--pretrained_name run: has no weights of G_A, with which --model cycle",
    ),
    (CUT, "--pretrained_name run --epoch 500", "--epoch 500: *500_net_G.pth does not exist; there are: latest"),
    (CUT, "--pretrained_name run --input_nc 1 --output_nc 1", "(8, 3, 7, 7) instead of (8, 1, 7, 7)*check --netG"),
    (CUTCAM, "--pretrained_name run --num_classes 5", "latest_net_C.pth: does not fit the network*check --num_classes"),
]


@pytest.mark.parametrize(("model", "flags", "expected"), FLAGS, ids=[shlex.join(shlex.split(row[1])) for row in FLAGS])
def test_a_wrong_flag_of_training(home: Path, model: str, flags: str, expected: str) -> None:
    costs_one_line("train", f"{TRAIN} {model} {flags}", home, *expected.split("*"))


@pytest.mark.parametrize("flag", ["--input_nc 1", "--output_nc 1", "--ngf 4", "--netG resnet_9blocks", "--normG batch"])
@pytest.mark.parametrize("script", ["train", "test", "cam_infer"])
def test_a_run_keeps_the_shape_of_its_networks(home: Path, script: str, flag: str) -> None:
    saved = {"input_nc": "3", "output_nc": "3", "ngf": "8", "netG": "resnet_6blocks", "normG": "instance"}
    again = " --continue_train" if script == "train" else ""
    remedy = "leave out the changed flags" if script == "train" else LEAVE_OUT
    trained = f"{flag}: the run checkpoints/run was trained with {saved[flag.split()[0][2:]]}"
    costs_one_line(script, f"{USE} {flag}{again}", home, trained, remedy)


@pytest.mark.parametrize(
    ("flag", "saved"),
    [
        ("--model cut", "cutcam"),
        ("--num_classes 3", "4"),
        ("--nce_layers 0,4", "0,4,8,12,16"),
        ("--cam_layer 0", "-1"),
        ("--direction BtoA", "AtoB"),
        ("--window_A 0,9", "auto"),
    ],
)
def test_a_run_that_goes_on_keeps_what_its_weights_mean(home: Path, flag: str, saved: str) -> None:
    expected = f"{flag}: the run checkpoints/run was trained with {saved}"
    costs_one_line("train", f"{USE} --continue_train {flag}", home, expected, "leave out the changed flags")


# --- flags of test.py and cam_infer.py

INFERENCE = [
    ("test", "--epoch 500", "--epoch 500: checkpoints/run/500_net_G.pth does not exist; there are: latest"),
    ("test", "--epoch ../plain/latest", f"--epoch ../plain/latest: {LEADS}"),
    ("test", "--epoch a/b", "--epoch a/b: is to be one word"),
    ("test", "--name nosuch", "--name nosuch: *options.yaml does not exist; *there are: "),
    ("test", "--name ../x", f"--name ../x: {LEADS}"),
    ("test", "--name ''", "--name '': is empty"),
    ("test", "--phase nosuch", "--dataroot data: has no folder nosuchA; put images there; *A is there: --phase t"),
    ("test", "--phase ../../x", f"--phase ../../x: {LEADS}"),
    ("test", "--results_dir data/labels.csv", "--results_dir: data/labels.csv is no folder; give another place"),
    ("test", "--results_dir ''", "--results_dir '': is empty; give a path"),
    ("test", "--num_test 0", "--num_test 0: must be at least 1"),
    ("test", "--dataroot ''", "--dataroot '': is empty; give the folder of the images"),
    ("test", "--dataroot nowhere", "--dataroot nowhere: no such folder"),
    ("test", "--checkpoints_dir nowhere", "--name run: nowhere/run/options.yaml does not exist"),
    ("test", "--crop_size 30", "--crop_size 30,30: *for example 32,32"),
    ("test", "--suffix x", "--suffix x: give the run's whole name"),
    ("test", "--config x.yaml", "--config: no such flag"),
    ("test", "--class_idx 1", "--class_idx: no such flag"),
    ("test", "--gpu_ids 77", "--gpu_ids 77: "),
    ("cam_infer", "--class_idx 4", "--class_idx 4: the head has the classes 0 to 3"),
    ("cam_infer", "--class_idx -2", "--class_idx -2: must be at least -1"),
    ("cam_infer", "--overlay_strength nan", "--overlay_strength nan: is no number"),
    ("cam_infer", "--colormap foo", "--colormap foo: choose one of jet"),
    ("cam_infer", "--name plain", "has no class head, so there are no maps; train with --model cutcam"),
    (
        "cam_infer",
        "--labels_A data/many.csv",
        "label_id 9 is not in 0..3 *this run was trained with so many classes; corr",
    ),
    (
        "cam_infer",
        "--labels_A data/strange.csv",
        "strange.csv, line 2: 'zebra' is no class of this run, which knows disc,",
    ),
    ("cam_infer", "--labels_A nosuch.csv", "--labels_A nosuch.csv: no such file"),
    ("cam_infer", "--labels_from_folders", "--labels_from_folders needs a sub-folder per class"),
]


@pytest.mark.parametrize(("script", "flags", "expected"), INFERENCE)
def test_a_wrong_flag_of_inference(home: Path, script: str, flags: str, expected: str) -> None:
    costs_one_line(script, f"{USE} {flags}", home, *expected.split("*"))


def test_classes_by_other_names_than_the_run_has_are_warned_about(home: Path, tmp_path: Path) -> None:
    table = tmp_path / "other.csv"
    table.write_text("file,label,label_id\ntestA/00.png,bars,0\ntestA/01.png,frame,1\n")
    told = run("cam_infer", f"{USE} --labels_A {table} --results_dir {tmp_path}/results", home)
    assert told.status == 0, told.err
    assert f"WARNING: {table}: class 0 is 'bars' here and 'disc' in the run; its numbers count" in told.err
    rows = (tmp_path / "results/run/latest/cams.csv").read_text()
    assert "disc" in rows
    assert "bars" not in rows


@pytest.mark.parametrize("script", ["test", "cam_infer"])
def test_an_image_that_is_too_small_is_a_bad_image(home: Path, tmp_path: Path, script: str) -> None:
    own = tmp_path / "data/testA"
    shutil.copytree(home / "data/testA", own)
    for name, size in (("0.png", (3, 255)), ("1.png", (1, 1)), ("2.png", (8, 8))):
        assert cv2.imwrite(str(own / name), np.zeros((*size, 3), np.uint8))
    own_flags = f"--dataroot {tmp_path}/data --name run --gpu_ids -1 --preprocess none"
    flags = f"{own_flags} --results_dir {tmp_path}/results"
    told = run(script, flags, home)
    assert (told.status, told.err.count("error: ")) == (2, 1)
    words = "/0.png' is 3 x 255 pixels and comes to 4 x 256 (height x width), and the network needs sides of 8 pixels"
    assert words in told.err
    assert "(--on_bad_image skip goes on without it)" in told.err
    told = run(script, f"{flags} --on_bad_image skip", home)
    assert told.status == 0, told.err
    assert "testA/1.png: is 1 x 1 pixels and comes to 4 x 4" in told.err
    assert "6 images translated" in told.out
    given = run(script, f"{own_flags} --input {own}/0.png --output {tmp_path}/given", home)
    assert (given.status, given.err.count("the network needs sides of 8 pixels or more")) == (2, 1)
