"""Two and four processes equal one process with twice and four times their batch.

Stated exceptions: batch norm, --nce_includes_all_negatives_from_minibatch and --pool_size mix the images of one process
only (--mbstd_group mixes neighbours, so that processes with whole groups agree with one), dropout draws by process, and
the monitors that remember maps of earlier images do so by process. Optimisers other than SGD turn round-off into steps
of full size where a gradient is nearly zero.

Most cases run in double precision: losses with kinks (L1, minimum and maximum of a map) multiply a difference by
about 100 in every step, also between two runs of one process, so that round-off of single precision passes 1e-5
after two or three steps whatever the number of processes. What single precision can show is the first two steps.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist

import train
from data.base import Batch, Dataset, Sample, collate
from models import MODELS
from models.base import Model
from models.cut_model import CutModel, CutState
from options.parse import train_options
from scripts.evaluating.while_training import EpochEvaluation
from tests.models.fcam_bench import JUDGE, SMALL, classifier_run
from tests.processes import as_ranks, meet_at, meeting_places
from util import ranks
from util.checkpoint import load_state
from util.engine.late import LateCheck
from util.engine.signals import StopRequest

if TYPE_CHECKING:
    from tests.conftest import DataMaker

WORLD = 2
# What the number of processes could change: averaging, labels that are gathered, a step that all must skip, and
# measuring held-out images.
BY_FOUR = ("cut", "cutcam without labels", "a step skipped because of one rank", "classifier")
# Two steps an epoch: 5 images in global batches of 4, the second one filled from the start.
COMMON = ("--optimizer", "sgd", "--lr", 0.001, "--init_gain", 0.5, "--n_epochs", 1, "--n_epochs_decay", 1)
CUTCAM = (
    *("--model", "cutcam", "--num_classes", 4, "--lambda_IDT", 10, "--lambda_EDGE", 5, "--cam_weight_adv"),
    *("--cls_start_epoch", 0, "--cam_start_epoch", 0),
)
SRUNIT = ("--model", "srunit", "--D_noise", 0.1, "--inact_epochs")
CASES: dict[str, tuple[tuple[object, ...], dict[str, Any]]] = {
    "cut": (("--model", "cut"), {}),
    "cut in single precision": (("--model", "cut", "--max_iters", 2), {}),
    "FastCUT wgangp": (("--model", "cut", "--CUT_mode", "FastCUT", "--gan_mode", "wgangp"), {}),
    "plateau in mid-epoch": (("--model", "cut", "--lr_policy", "plateau", "--n_epochs", 5, "--max_iters", 3), {}),
    "a step skipped because of one rank": (("--model", "cut", "--on_nan", "skip"), {}),
    "evaluated": (("--model", "cut", "--eval_freq", 1, "--eval_phase", "train"), {}),
    "cutcam": (CUTCAM, {}),
    "cutcam with some labels": ((*CUTCAM, "--cam_norm", "l2"), {"labelled": (0, 1)}),
    "cutcam, maps told apart": ((*CUTCAM, "--cam_norm", "contrast"), {}),
    "cutcam without labels": ((*CUTCAM, "--pseudo_labels", "sinkhorn", "--pseudo_every", 1), {"labelled": ()}),
    "srunit": ((*SRUNIT, 0), {}),
    "srunit, released, FastCUT": (
        (*SRUNIT, 1, "--reg_mode", "released", "--reg_type", "v1", "--CUT_mode", "FastCUT"),
        {},
    ),
    "cycle_gan": (("--model", "cycle_gan", "--pool_size", 0), {}),
    "dclgan wgangp": (("--model", "dclgan", "--gan_mode", "wgangp"), {}),
    "sincut": (
        (
            *("--model", "sincut", "--netG", "stylegan2", "--ngf", 1, "--ndf", 1, "--mbstd_group", 2, "--lr", 0.02),
            *("--max_dataset_size", 1, "--crops_per_epoch", 5, "--nce_includes_all_negatives_from_minibatch", False),
        ),
        {},
    ),
    "pix2pix": (
        ("--model", "pix2pix", "--normG", "instance", "--normD", "instance", "--no_dropout", "--lr", 0.002),
        {"count": (5, 5)},
    ),
    "classifier": (
        ("--model", "classifier", "--num_classes", 4, "--lr", 0.01, "--val_share", 0.4),
        {"count": (9, 4)},  # 4 of them held out
    ),
    "std_cl": (
        ("--model", "std_cl", "--arch", "judge", "--num_classes", 4, "--lr", 0.01, "--val_share", 0.4),
        {"count": (9, 4)},
    ),
    "fcam": (
        ("--model", "fcam", "--classifier_run", classifier_run(*JUDGE), *SMALL, "--lr", 0.01, "--val_share", 0.4),
        {"count": (9, 4)},
    ),
}
STEPS = {"plateau in mid-epoch": 3, "cut in single precision": 2}  # that --max_iters allows
TERMS = {  # where they are not CUT's
    "classifier": {"C", "CLS"},
    "cycle_gan": {"D", "D_A_fake", "D_B_real", "G", "G_GAN_A", "CYC_A", "CYC_B", "IDT_B"},
    "dclgan": {"D", "D_A_GP", "D_B_real", "G", "G_GAN_B", "NCE_A", "NCE_B", "IDT_A"},
    "sincut": {"D", "D_fake", "D_real", "D_R1", "G", "G_GAN", "NCE", "NCE_Y", "IDT"},
    "pix2pix": {"D", "D_fake", "D_real", "G", "G_GAN", "L1"},
    "std_cl": {"C", "CLS"},
    "fcam": {"S", "SL", "CRF", "SIZE", "ENT"},
}
Runs = dict[str, tuple[Path, Path]]  # one process, several processes


def use_double(patch: pytest.MonkeyPatch) -> None:
    """Networks and images in double precision."""

    def to(self: Model[Any], device: torch.device) -> Model[Any]:
        for net in self.nets.values():
            net.to(device, torch.float64)
        return self

    def collate_double(self: Dataset, samples: Sequence[Sample]) -> Batch:
        batch = collate(samples)
        return replace(batch, A=batch.A.double(), B=None if batch.B is None else batch.B.double())

    patch.setattr(Model, "to", to)
    patch.setattr(Dataset, "collate", collate_double)


def spoil_one_image(patch: pytest.MonkeyPatch) -> None:
    """The loss is NaN in the steps, and on the rank, that see trainA/03.png."""
    losses = CutModel.g_losses

    def spoiled(self: CutModel, state: CutState) -> dict[str, torch.Tensor]:
        terms = losses(self, state)
        bad = "trainA/03.png" in state.batch.path_A
        return terms | {"NCE": terms["NCE"] * float("nan")} if bad else terms

    patch.setattr(CutModel, "g_losses", spoiled)


def measure_slowly(patch: pytest.MonkeyPatch) -> None:
    """An evaluation during which the ranks ask each other three times whether to leave."""

    def evaluate(self: EpochEvaluation, epoch: int, stopped: Callable[[], bool]) -> dict[str, float]:
        assert [stopped() for _ in range(3)] == [False] * 3
        return {"ssim": 0.25 * epoch}

    patch.setattr(EpochEvaluation, "__call__", evaluate)


def run(argv: list[str]) -> None:
    """train.py with these arguments; in double precision unless the folder says otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        if not any("single" in arg for arg in argv):
            use_double(patch)
        if "skip" in argv:
            spoil_one_image(patch)
        measure_slowly(patch)
        patch.setattr(StopRequest, "listen", lambda self: self)
        patch.setattr(sys, "argv", ["train.py", *argv])
        assert train.main() == 0


def as_rank(rank: int, commands: list[list[str]], ports: list[int]) -> None:
    """One process of several."""
    meet_at(ports[0])
    messages(rank)
    for argv, port in zip(commands, ports[1:], strict=True):
        meet_at(port)
        run(argv)


def messages(rank: int) -> None:
    """What the ranks tell each other."""
    ranks.start(torch.device("cpu"))
    world = ranks.world_size()
    assert (ranks.rank(), ranks.is_first()) == (rank, rank == 0)
    assert ranks.on_any(rank == 1)
    assert not ranks.on_any(False)
    mine = torch.tensor([1.0, 10.0]) * (rank + 1)
    total = world * (world + 1) / 2
    assert ranks.sum_over_ranks(mine).tolist() == [total, 10 * total]
    assert ranks.mean_over_ranks(mine).tolist() == [total / world, 10 * total / world]
    assert mine.tolist() == [rank + 1, 10 * (rank + 1)]
    assert ranks.from_first(mine.clone().reshape(2, 1).t()).tolist() == [[1, 10]]

    kinds = (torch.float32, torch.float64, torch.float32, torch.float32)
    parameters = [torch.zeros(2, 3, dtype=kind, requires_grad=True) for kind in kinds]
    for number, parameter in enumerate(parameters[:3]):
        parameter.grad = torch.full_like(parameter, (number + 1) * 10.0**rank)
    ranks.average_gradients(parameters)
    mean = sum(10.0**one for one in range(world)) / world
    for number, parameter in enumerate(parameters[:3]):
        assert parameter.grad is not None
        assert parameter.grad.dtype == parameter.dtype
        assert bool((parameter.grad == (number + 1) * mean).all())
    assert parameters[3].grad is None
    once = [parameter.grad for parameter in parameters[:3] if parameter.grad is not None]
    beside = torch.tensor(float(rank == 1))
    ranks.average_gradients(parameters, beside)
    assert all(bool((grad == (number + 1) * mean).all()) for number, grad in enumerate(once))
    assert beside == 1

    late, weight = LateCheck(torch.device("cpu")), torch.zeros(2, 3, requires_grad=True)
    late.see([torch.tensor(math.inf if rank == 1 else 1.0)])  # a loss of one rank alone
    weight.grad = torch.ones_like(weight)
    late.average([weight])
    late.note(None, 1, 1, {})  # type: ignore[arg-type]
    assert late.overdue() is not None  # on every rank

    stop = StopRequest()
    assert not stop.agreed()
    if rank == 1:
        stop._ask(0, None)
    assert stop.agreed()  # also on the rank that nobody asked
    ranks.barrier()
    ranks.stop()
    assert not dist.is_initialized()


@pytest.fixture(scope="module")
def runs(data: DataMaker, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Every case trained by one process with batches of 4 and by two with batches of 2; some by four with one image."""
    from tests.conftest import tiny_flags

    folder, found = tmp_path_factory.mktemp("ranks"), {}
    alone: list[list[str]] = []
    together: dict[int, list[list[str]]] = {WORLD: [], 2 * WORLD: []}
    for case, (flags, arguments) in CASES.items():

        def add(commands: list[list[str]], processes: int, case: str = case, rest: Any = (flags, arguments)) -> Path:
            place, size = folder / case / str(processes), 4 // processes
            commands.append(tiny_flags(place, data(**rest[1]), *COMMON, *rest[0], "--batch_size", size))
            return place / "run"

        one = add(alone, 1)
        found[case] = one, add(together[WORLD], WORLD)
        if case in BY_FOUR:
            found[f"{case}, by four"] = one, add(together[2 * WORLD], 2 * WORLD)
    for world, commands in together.items():
        with meeting_places(1 + len(commands)) as ports:
            as_ranks(world, as_rank, commands, ports)
    for argv in alone:
        run(argv)
    return found


ALL = (*CASES, *(f"{case}, by four" for case in BY_FOUR))


@pytest.mark.parametrize("case", ALL)
def test_weights_agree_and_have_moved(runs: Runs, case: str, data: DataMaker) -> None:
    from tests.conftest import tiny_flags

    one, two = (load_state(folder / "latest_state.pt") for folder in runs[case])
    assert one["position"] == two["position"]
    assert (one["world_size"], two["world_size"]) == (1, 2 * WORLD if "by four" in case else WORLD)
    assert one["loss_sum"] == pytest.approx(two["loss_sum"], rel=1e-5)
    assert bool(one["loss_sum"]) == (case == "plateau in mid-epoch")
    flags, arguments = CASES[case.removesuffix(", by four")]
    options = train_options(tiny_flags(runs[case][0], data(**arguments), *COMMON, *flags))
    start = MODELS.get(options.experiment.model).from_options(options).nets
    for name, weights in one["nets"].items():
        away = 0.0
        for key, value in weights.items():
            away = max(away, float((value - start[name].state_dict()[key]).abs().max()))
            other = two["nets"][name][key]
            assert torch.allclose(other, value, atol=1e-5, rtol=1e-5), f"{name} {key}: {(other - value).abs().max()}"
        trained = any(True for _ in start[name].parameters())  # F-CAM's classifier is frozen
        assert (away > 1e-3) == trained, f"{name} has hardly moved, so that agreeing means nothing"
    assert one["model"].get("pseudo", {}).get("rounds") == two["model"].get("pseudo", {}).get("rounds")


@pytest.mark.parametrize("case", ALL)
def test_losses_agree(runs: Runs, case: str) -> None:
    one, two = (losses_in(folder) for folder in runs[case])
    expected = [1, 4] if "skipped" in case else list(range(1, 1 + STEPS.get(case, 4)))
    assert [line["step"] for line in one] == [line["step"] for line in two] == expected
    assert [line["total_iters"] for line in two] == [4 * step for step in expected]
    names = [n for n in one[0] if n[0].isupper() and n not in ("CAM_cross_corr", "CAM_corr_gain")]
    assert TERMS.get(case.split()[0].rstrip(","), {"D_fake", "D_real", "G_GAN", "NCE", "D", "G"}) <= set(names)
    assert ("CAM" in names) == ("CAM_weight" in names) == case.startswith("cutcam")
    for a, b in zip(one, two, strict=True):
        assert {n: b[n] for n in names} == pytest.approx({n: a[n] for n in names}, rel=1e-5, abs=1e-6)


def losses_in(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines_in(folder) if "lr" in line]


def lines_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_one_rank_evaluates_and_the_others_wait(runs: Runs) -> None:
    for folder in runs["evaluated"]:
        found = [(line["epoch"], line["eval_ssim"]) for line in lines_in(folder) if "eval_ssim" in line]
        assert found == [(1, 0.25), (2, 0.5)]
        assert (folder / "1_net_G.pth").is_file()  # exported for it, though --save_epoch_freq is 5


@pytest.mark.parametrize("case", ["classifier", "classifier, by four", "std_cl"])
def test_held_out_images_are_measured_once_by_all(runs: Runs, case: str) -> None:
    one, two = ([line for line in lines_in(folder) if "val_acc" in line] for folder in runs[case])
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        for name in ("step", "val_acc", "val_CLS"):
            assert b[name] == pytest.approx(a[name], rel=1e-5)
    for folder in runs[case]:
        facts = json.loads((folder / "latest_facts.json").read_text())
        assert (facts["images"], facts["val_images"]) == (5, 4)
        assert facts["val_CLS"] == pytest.approx(one[-1]["val_CLS"], rel=1e-5)


def test_one_process_needs_no_group() -> None:
    value = torch.ones(3, requires_grad=True)
    assert (ranks.rank(), ranks.world_size(), ranks.is_first()) == (0, 1, True)
    assert torch.equal(ranks.mean_over_ranks(value), value.detach())
    assert not ranks.sum_over_ranks(value).requires_grad
    ranks.average_gradients([value])
    assert value.grad is None
    ranks.barrier()
    ranks.start(torch.device("cpu"))
    assert not dist.is_initialized()
