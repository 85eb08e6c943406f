"""The plan of the experiment, fixed before any of it was run: questions, arms, suites, outcomes, budgets, tests.

Nothing here depends on a result. What is changed after a look at numbers belongs into a new arm with its own name, and
is confirmed with seeds and test images that the look has not touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from options.schema import OptionError

QUESTIONS: Mapping[int, str] = {
    1: "Does the CAM term help over class consistency alone: by normalisation and weight, with and without the cap?",
    2: "Does class consistency alone help over CUT?",
    3: "Does weighting the adversarial loss by the CAM help over class consistency alone, and on which side?",
    4: "How much of it needs labels: true labels, k-means pseudo-labels, or the map without labels?",
    5: "How do CUT, FastCUT, SRUNIT, CycleGAN and DCLGAN do with the same number of iterations, and of seconds?",
    6: "Does it keep classes where A and B hold them in different shares? (suite infrared_unmatched against infrared)",
    7: "Do NCE queries chosen by the CAM help?",
}


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        flags: of train.py; {classes} is the suite's number of classes, {quarter} a quarter of the epochs,
            {teacher} the run of a classifier of A, {teacher_augmented} of one that learned from changed images.
        questions: those it answers.
        against: the arm that it is compared with, beside CUT.
        iterations: of the budget's, for the same number of seconds instead of steps.
        labels: it is shown those of A; else it is trained on the same images without a table.
        cost: of a step, in steps of CUTCAM, as measured; for the estimate of time alone.
    """

    flags: str
    questions: tuple[int, ...]
    against: str = "cut"
    iterations: float = 1.0
    labels: bool = True
    cost: float = 1.0

    @property
    def model(self) -> str:
        """The model that the flags name."""
        words = self.flags.split()
        return words[words.index("--model") + 1]


# The published weight of the class loss, which was the default before the screen; arms with another weight say so.
_HEAD = "--model cutcam --num_classes {classes} --lambda_CLS 1"
_CLS = f"{_HEAD} --lambda_CAM 0"
_AUGMENTED = "--classifier_run {teacher_augmented} --cls_augment color,blur,noise"
BASELINE = "cut"
DEFAULT = "cls_0.1_cam"

# Rivals have no use for labels. CUTCAM's are seen by its class head alone, those of A only.
ARMS: Mapping[str, Arm] = {
    "cut": Arm("--model cut", (1, 2, 3, 4, 5, 6, 7), labels=False),
    "cutcam": Arm(_HEAD, (1, 4, 5, 6, 7)),
    "cls": Arm(_CLS, (1, 2, 3, 6)),
    "cls_5": Arm(f"{_CLS} --lambda_CLS 5", (2, 6)),
    "cam_minmax_5": Arm(f"{_HEAD} --lambda_CAM 5", (1,), "cls"),
    "cam_minmax_25_uncapped": Arm(f"{_HEAD} --cam_grad_cap 0", (1,), "cutcam"),
    "cam_l2_1": Arm(f"{_HEAD} --cam_norm l2 --lambda_CAM 1", (1,), "cls"),
    "cam_l2_5": Arm(f"{_HEAD} --cam_norm l2 --lambda_CAM 5", (1,), "cls"),
    "cam_mean_0.25": Arm(f"{_HEAD} --cam_norm mean --lambda_CAM 0.25", (1,), "cls"),
    "cam_mean_1": Arm(f"{_HEAD} --cam_norm mean --lambda_CAM 1", (1,), "cls"),
    "cam_softmax_1": Arm(f"{_HEAD} --cam_norm softmax --lambda_CAM 1", (1,), "cls"),
    "cls_5_cam_l2_5": Arm(f"{_HEAD} --lambda_CLS 5 --cam_norm l2 --lambda_CAM 5", (1, 2), "cls_5"),
    # Second round, added after one seed of the first on `sar`, in which every class term at weight 1 kept G from
    # making the target's texture.
    "cls_0.1": Arm(f"{_HEAD} --lambda_CAM 0 --lambda_CLS 0.1", (2,)),
    "cls_0.1_cam_l2_1": Arm(f"{_HEAD} --lambda_CLS 0.1 --cam_norm l2 --lambda_CAM 1", (1, 2), "cls_0.1"),
    # Third round, after two seeds of these: what the map weighs and chooses, with class terms that small.
    "cls_0.1_adv_both": Arm(f"{_HEAD} --lambda_CAM 0 --lambda_CLS 0.1 --cam_weight_adv", (3,), "cls_0.1"),
    "cls_0.1_query_cam": Arm(f"{_HEAD} --lambda_CAM 0 --lambda_CLS 0.1 --nce_query cam", (7,), "cls_0.1"),
    "taught": Arm(f"{_CLS} --head_learns both", (2,), "cls"),
    "taught_0.1": Arm(f"{_HEAD} --lambda_CAM 0 --lambda_CLS 0.1 --head_learns both", (2,), "cls_0.1"),
    # Fourth round: in 720 steps the head learns no ten classes, so a classifier trained on A before judges G(x).
    "teacher": Arm(f"{_CLS} --classifier_run {{teacher}}", (2,), "cls"),
    "teacher_0.1": Arm(f"{_HEAD} --lambda_CAM 0 --lambda_CLS 0.1 --classifier_run {{teacher}}", (2,), "cls_0.1"),
    # Fifth round: CUTCAM's defaults but for the weight that all rounds before spoke against.
    "cls_0.1_cam": Arm(f"{_HEAD} --lambda_CLS 0.1", (1,), "cls_0.1"),
    # Sixth round, after the confirmation: maps of other images as negatives, and two that had helped, together.
    "cls_0.1_contrast_1": Arm(f"{_HEAD} --lambda_CLS 0.1 --cam_norm contrast --lambda_CAM 1", (1,), "cls_0.1"),
    "teacher_0.1_adv_both": Arm(
        f"{_HEAD} --lambda_CAM 0 --lambda_CLS 0.1 --classifier_run {{teacher}} --cam_weight_adv", (2, 3), "teacher_0.1"
    ),
    # Last round: the frozen classifier kept the source's texture, by which it knew the classes; one trained on changed
    # images, which judges changed translations, might know them by less of it.
    "teacher_augmented": Arm(f"{_CLS} {_AUGMENTED}", (2,), "teacher"),
    "teacher_augmented_0.1": Arm(f"{_HEAD} --lambda_CAM 0 --lambda_CLS 0.1 {_AUGMENTED}", (2,), "teacher_0.1"),
    "adv_both": Arm(f"{_CLS} --cam_weight_adv", (3,), "cls"),
    "adv_g": Arm(f"{_CLS} --cam_weight_adv --cam_adv_side g", (3,), "cls"),
    "adv_both_half": Arm(f"{_CLS} --cam_weight_adv --cam_adv_strength 0.5", (3,), "cls"),
    "published": Arm(f"{_HEAD} --lambda_IDT 10 --lambda_EDGE 5 --cam_weight_adv", (1, 3), "cutcam"),
    "pseudo_kmeans": Arm(f"{_HEAD}", (4,), "cutcam", labels=False),
    "label_free": Arm(f"{_HEAD} --cam_method label_free --lambda_CLS 0", (4,), labels=False),
    "query_cam": Arm(f"{_HEAD} --nce_query cam", (7,), "cutcam"),
    "fastcut": Arm("--model cut --CUT_mode FastCUT", (5,), labels=False, cost=0.6),
    "srunit": Arm("--model srunit --inact_epochs {quarter}", (5, 6), labels=False, cost=1.3),
    "cycle_gan": Arm("--model cycle_gan", (5,), labels=False, cost=1.5),
    "dclgan": Arm("--model dclgan", (5,), labels=False, cost=1.7),
    # The same rivals for the seconds that CUT takes, by the measured costs of docs/choose_losses.md. Whole epochs:
    # with the three of the CPU's budget they get 1.00 (FastCUT), 0.86, 0.97 and 1.12 of CUT's time.
    "fastcut_time": Arm("--model cut --CUT_mode FastCUT", (5,), "fastcut", 1 / 0.60, labels=False, cost=0.6),
    "srunit_time": Arm("--model srunit --inact_epochs {quarter}", (5,), "srunit", 1 / 1.28, labels=False, cost=1.3),
    "cycle_gan_time": Arm("--model cycle_gan", (5,), "cycle_gan", 1 / 1.46, labels=False, cost=1.5),
    "dclgan_time": Arm("--model dclgan", (5,), "dclgan", 1 / 1.68, labels=False, cost=1.7),
}
# What a first look costs: the arms without which the seven questions have no answer at all.
SHORT = ("cut", "cls", "cls_5", "cutcam", DEFAULT, "cam_l2_5", "cls_5_cam_l2_5", "adv_both", "query_cam")


@dataclass(frozen=True)
class Suite:
    """A data set, or the recipe of one.

    Args:
        title: for the report.
        scenes: generated infrared scenes of these classes; none: a folder that --dataroot names.
        prior_B: of the generated scenes' training images of B.
        fit: how images come to the size of the budget: `resize`, `crop` the middle, or cut about the first `target`.
        channels: 1 or 3.
        labelled: whether flip rate and accuracy exist.
        classes: of the class head.
    """

    title: str
    classes: int
    scenes: tuple[str, ...] = ()
    prior_B: str = ""
    fit: str = "resize"
    channels: int = 1
    labelled: bool = True


VEHICLES = ("car", "bus", "tank")
SUITES: Mapping[str, Suite] = {
    "infrared": Suite("generated infrared scenes, classes in equal shares", 3, VEHICLES, fit="target"),
    "infrared_unmatched": Suite(
        "generated infrared scenes, eight of ten in B of one class", 3, VEHICLES, "8,1,1", "target"
    ),
    "sar": Suite("SAR chips, pseudo-simulated to measured (mstar_proxy)", 10, fit="crop"),
    "thermal": Suite("thermal chips from a UAV, day to night (hituav_day2night)", 3),
    "horse2zebra": Suite("horses to zebras", 4, channels=3, labelled=False),
}


@dataclass(frozen=True)
class Outcome:
    """A number of scripts/evaluate.py. `primary`: tested; `guard`: may not get worse; else described only."""

    metric: str
    better: str
    what: str
    role: str = ""


PRIMARY, GUARD = "primary", "guard"
OUTCOMES: tuple[Outcome, ...] = (
    Outcome("flip_rate", "lower", "translations whose class the target's classifier does not see", PRIMARY),
    Outcome("acc_train_fake", "higher", "accuracy on real images of a classifier trained on translations", PRIMARY),
    Outcome("kid", "lower", "KID on features of a classifier of the domain", GUARD),
    Outcome("fid", "lower", "FID on the same features"),
    Outcome("ssim", "higher", "SSIM to the paired truth"),
    Outcome("cc", "higher", "correlation with the paired truth"),
    Outcome("CAM_energy_fake", "higher", "share of the translation's CAM inside the target's boxes"),
    Outcome("CAM_corr_gain", "higher", "corr(CAM x, CAM G(x)) minus that between different images"),
)
METRICS = ("semantics", "transfer", "kid", "fid", "ssim", "cc", "cam_consistency", "cam_localisation")
LEVEL = 0.05
# The family of Holm's correction: every other arm against CUT, in every labelled suite of a stage, on both primary
# outcomes, by a paired t-test over seeds.
TESTS = "paired t-test over seeds, two-sided; Holm over all arms, labelled suites and primary outcomes of the stage"
VERDICT = (
    "CAM guidance helps if, with the setting that was frozen, flip rate and accuracy are both better than CUT's at "
    f"{LEVEL} after Holm's correction in at least two of the three suites infrared_unmatched, sar and thermal, "
    "and the 95 % interval of the difference in KID does not lie above 0 in any of these two"
)
VERDICT_SUITES = ("infrared_unmatched", "sar", "thermal")
# How the screen chooses what is confirmed.
KID_ALLOWED = 1.25
CHOICE = (
    "the arm of --model cutcam with the largest mean gain over CUT, (fall in flip rate + rise in accuracy) / 2, over "
    f"the labelled suites screened, of those whose KID is at most {KID_ALLOWED} times CUT's on average"
)
SCREEN_SEEDS = (101, 102)
FIRST_CONFIRM_SEED = 1


def seeds_of(stage: str, count: int) -> tuple[int, ...]:
    """Seeds of a stage; those of the screen and of the confirmation have none in common.

    Raises:
        OptionError: the stage has not so many.
    """
    fresh = tuple(range(FIRST_CONFIRM_SEED, min(SCREEN_SEEDS)))
    seeds = SCREEN_SEEDS if stage == "screen" else fresh
    if not 1 <= count <= len(seeds):
        raise OptionError(
            f"--seeds {count}: --stage {stage} has the seeds {seeds[0]} to {seeds[-1]}; give 1 to {len(seeds)}"
        )
    return seeds[:count]


@dataclass(frozen=True)
class Budget:
    """What a run may cost.

    Args:
        iterations: optimiser steps, rounded to whole epochs.
        train, test: at most so many images of each domain; 0: all.
        judge_epochs: of the classifiers that judge, and of the one trained on translations.
        step_seconds: of one step of CUTCAM, and `other_seconds` of start and evaluation, measured: for the estimate.
    """

    iterations: int
    size: int
    ngf: int
    batch: int
    train: int
    test: int
    judge_epochs: int
    flags: str
    step_seconds: float
    other_seconds: float


BUDGETS: Mapping[str, Budget] = {
    "cpu": Budget(
        iterations=720,
        size=64,
        ngf=16,
        batch=2,
        train=480,
        test=240,
        judge_epochs=20,
        flags="--netG resnet_6blocks --num_patches 64 --netF_nc 64 --lr 0.0004",
        step_seconds=0.14,
        other_seconds=45.0,
    ),
    "gpu": Budget(
        iterations=40_000,
        size=128,
        ngf=64,
        batch=4,
        train=0,
        test=0,
        judge_epochs=25,
        flags="--netG resnet_9blocks --lr 0.0002",
        step_seconds=0.12,
        other_seconds=180.0,
    ),
}
