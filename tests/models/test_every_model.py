"""What must hold for every registered model; a new model needs a row in REACHES and a golden file."""

from __future__ import annotations

import json
import math
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from data.base import Batch
from models import MODELS
from models.terms.base import TERMS
from tests.models.fcam_bench import JUDGE, SMALL, classifier_run
from util.engine.build import optimizers_from
from util.engine.step import only_trains
from util.seeding import generator
from util.visual.base import LOSS_GROUPS, group_of

if TYPE_CHECKING:
    from tests.conftest import Bench, BenchMaker

GOLDEN = Path(__file__).parents[1] / "golden"
WRITE_GOLDEN = "CUTCAM_WRITE_GOLDEN"  # set it to 1 to write the files anew after a wanted change

# Flags that switch every term of a model on.
FULL: dict[str, tuple[object, ...]] = {
    "cut": (),
    "cutcam": ("--num_classes", 4, "--lambda_CLS", 1, "--lambda_IDT", 10, "--lambda_EDGE", 5, "--cam_weight_adv"),
    "classifier": ("--num_classes", 4, "--lr", 0.0002),
    "std_cl": ("--num_classes", 4, "--arch", "judge", "--optimizer", "adam", "--lr", 0.0002, "--head_lr_factor", 1),
    "fcam": ("--classifier_run", classifier_run(*JUDGE), *SMALL),
    "cycle_gan": (),
    "dclgan": (),
    "pix2pix": ("--normG", "instance", "--normD", "instance", "--no_dropout"),  # its defaults mix images, or draw
    "srunit": ("--inact_epochs", 0, "--D_noise", 0.1),
    "sincut": ("--netG", "stylegan2", "--ngf", 1, "--ndf", 1, "--max_dataset_size", 1, "--crops_per_epoch", 4),
}

# Networks that each term's gradient reaches, by phase, with FULL and --gan_mode wgangp.
CUT_REACHES = {
    "D": {"D_fake": "D", "D_real": "D", "D_GP": "D"},
    "G": {"G_GAN": "G", "NCE": "GF", "NCE_Y": "GF"},
}
BOTH_D = {f"{net}_{term}": net for net in ("D_A", "D_B") for term in ("fake", "real", "GP")}
BOTH_G = {"G_GAN_A": "G_A", "G_GAN_B": "G_B", "IDT_A": "G_A", "IDT_B": "G_B"}
REACHES: dict[str, dict[str, dict[str, str]]] = {
    "cut": CUT_REACHES,
    "cutcam": {
        "D": CUT_REACHES["D"],
        "G": CUT_REACHES["G"] | {"CLS": "GC", "CAM": "G", "IDT": "G", "EDGE": "G"},
    },
    "classifier": {"C": {"CLS": "C"}},
    "std_cl": {"C": {"CLS": "C"}},
    "fcam": {"S": {"SL": "S", "CRF": "S", "SIZE": "S", "ENT": "S"}},
    "cycle_gan": {"D": BOTH_D, "G": BOTH_G | {"CYC_A": "G_AG_B", "CYC_B": "G_AG_B"}},
    "dclgan": {"D": BOTH_D, "G": BOTH_G | {"NCE_A": "G_AG_BF2", "NCE_B": "G_AG_BF1"}},
    "pix2pix": {"D": CUT_REACHES["D"], "G": {"G_GAN": "G", "L1": "G"}},
    "srunit": {"D": CUT_REACHES["D"], "G": CUT_REACHES["G"] | {"SR": "GF"}},
    "sincut": {"D": CUT_REACHES["D"] | {"D_R1": "D"}, "G": CUT_REACHES["G"] | {"IDT": "G"}},
}

COMMON: dict[str, tuple[object, ...]] = {
    "plain": (),
    "batch 1": ("--batch_size", 1),
    "batch 3": ("--batch_size", 3),
    "bf16": ("--amp", "bf16"),
    "sgd": ("--optimizer", "sgd"),
}
# Of models with G and D.
ADVERSARIAL: dict[str, tuple[object, ...]] = {
    "wgangp": ("--gan_mode", "wgangp"),
    "hinge": ("--gan_mode", "hinge"),
    "unet": ("--netG", "unet_128", "--load_size", 128, "--crop_size", 128),
    "batch norm": ("--normG", "batch", "--normD", "batch"),
}
CUT_VARIANTS: dict[str, tuple[object, ...]] = ADVERSARIAL | {
    "FastCUT": ("--CUT_mode", "FastCUT"),
    "reshape": ("--netF", "reshape"),
    "sample": ("--netF", "sample", "--nce_includes_all_negatives_from_minibatch"),
}
OWN: dict[str, dict[str, tuple[object, ...]]] = {
    "cut": CUT_VARIANTS,
    "cutcam": CUT_VARIANTS
    | {
        "l2": ("--cam_norm", "l2"),
        "contrast": ("--cam_norm", "contrast", "--lambda_CAM", 1),
        "softmax": ("--cam_norm", "softmax", "--cam_method", "gradcam_feature"),
        "label free": ("--cam_norm", "mean", "--cam_method", "label_free"),
        "lse": ("--cam_pool", "lse", "--cam_adv_side", "g", "--edge_mode", "ngf"),
        "taught by both": ("--head_learns", "both"),
        "judged by a classifier": ("--classifier_run", classifier_run(*JUDGE)),
        "first layer": ("--cam_layer", 0, "--cam_pool", "topk", "--edge_mode", "keep"),
    },
    "srunit": {name: flags for name, flags in CUT_VARIANTS.items() if name != "unet"}
    | {
        "v1 released": ("--reg_type", "v1", "--reg_mode", "released"),
        "quotient": ("--reg_mode", "quotient", "--reg_detach"),
        "grey": ("--input_nc", 1, "--output_nc", 1, "--reg_relative"),
    },
    "sincut": {
        "hinge": ADVERSARIAL["hinge"],
        "minibatch deviation": ("--mbstd_group", 2),
        "tiles": ("--netD", "tilestylegan2", "--D_patch_size", 16, "--nce_idt", False),
        "small, no zoom": ("--netG", "smallstylegan2", "--preprocess", "scale_width_and_crop"),
        "networks of CUT": ("--netG", "resnet_4blocks", "--ngf", 8, "--netD", "basic", "--CUT_mode", "FastCUT"),
    },
    "classifier": {"grey": ("--input_nc", 1, "--label_smoothing", 0)},
    "std_cl": {
        "grey": ("--input_nc", 1, "--head_lr_factor", 10),
        "LSE": ("--spatial_pooling", "LogSumExpPool"),
        "WILDCAT": ("--spatial_pooling", "WILDCAT", "--output_stride", 16),
    },
    "fcam": {
        "batch norm": ("--decoder_norm", "batch"),
        "gradients": ("--teacher", "gradcam++", "--teacher_layer", "trunk.4"),
        "F-CAM's weight": ("--crf_lambda", 1e-6, "--crf_scale", 0.5),
    },
    "cycle_gan": ADVERSARIAL
    | {"small pool": ("--pool_size", 1), "grey to colour": ("--input_nc", 1, "--lambda_identity", 0)},
    "dclgan": {name: flags for name, flags in CUT_VARIANTS.items() if name != "FastCUT"} | {"pool": ("--pool_size", 1)},
    "pix2pix": {name: flags for name, flags in ADVERSARIAL.items() if name != "unet"}
    | {
        "as published": (
            *("--netG", "unet_128", "--load_size", 128, "--crop_size", 128),
            *("--normG", "batch", "--normD", "batch", "--no_dropout", False),
        ),
        "grey to colour": ("--input_nc", 1),
    },
}


def variants() -> list[tuple[str, str]]:
    return [(model, name) for model in MODELS.names() for name in {**COMMON, **OWN.get(model, {})}]


def flags_of(model: str, variant: str = "plain") -> tuple[object, ...]:
    chosen = {**COMMON, **OWN.get(model, {})}[variant]
    return ("--model", model, "--batch_size", 2, *FULL.get(model, ()), *chosen)


# --- one step


def test_every_term_is_printed_and_drawn_with_the_losses() -> None:
    terms = {term for phases in REACHES.values() for names in phases.values() for term in names}
    totals = {phase for phases in REACHES.values() for phase in phases}
    for name in terms | totals | {name.upper() for name in TERMS.names()}:
        assert group_of(name) in LOSS_GROUPS, name


@pytest.mark.parametrize(("model", "variant"), variants())
def test_terms_are_finite_sum_up_and_every_network_moves(bench: BenchMaker, model: str, variant: str) -> None:
    made = bench(*flags_of(model, variant))
    before = {name: _parameters(net) for name, net in made.model.nets.items()}
    for step in range(2):
        scalars = made.step(step).scalars
        assert all(math.isfinite(value) for value in scalars.values()), scalars
    for phase in made.model.phases:
        terms = _terms(made, phase.name)
        total = sum(float(scalars[name]) for name in terms)
        assert float(scalars[phase.name]) == pytest.approx(total, rel=1e-5)
    for name, net in made.model.nets.items():
        after = _parameters(net)
        assert len(after) == 0 or not torch.equal(before[name], after), f"{name} did not move"
        assert bool(torch.isfinite(after).all())


def _parameters(net: torch.nn.Module) -> Tensor:
    values = [p.detach().flatten() for p in net.parameters()]
    return torch.cat(values) if values else torch.zeros(0)


def _terms(made: Bench, phase: str) -> dict[str, Tensor]:
    state = made.model.forward_train(made.batch(), made.info())
    return next(p for p in made.model.phases if p.name == phase).losses(state)


# --- gradients


@pytest.mark.parametrize("model", MODELS.names())
def test_each_term_reaches_exactly_its_networks(bench: BenchMaker, model: str) -> None:
    expected = REACHES.get(model)
    assert expected, f"say in REACHES which networks the terms of {model} train"
    made = bench(*flags_of(model), "--gan_mode", "wgangp")
    nets = made.model.nets
    state = made.model.forward_train(made.batch(), made.info())
    found: dict[str, dict[str, str]] = {}
    for phase in made.model.phases:
        with only_trains(nets, phase.nets):
            terms = phase.losses(state)
            found[phase.name] = {name: _reached(term, nets) for name, term in terms.items()}
    assert found == expected


def _reached(term: Tensor, nets: dict[str, torch.nn.Module]) -> str:
    """Names of the networks that the term sends a gradient other than 0 to; all gradients must be finite."""
    for net in nets.values():
        net.zero_grad(set_to_none=True)
    term.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    reached = ""
    for name, net in nets.items():
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        assert all(bool(torch.isfinite(g).all()) for g in gradients), name
        reached += name if any(bool(g.any()) for g in gradients) else ""
    return "".join(sorted(reached, key="GDFC".find)) if set(reached) <= set("GDFC") else reached


# The biases before an instance norm have no effect, so their gradient is zero but for round-off.
@pytest.mark.parametrize("model", MODELS.names())
def test_no_weight_is_left_out(bench: BenchMaker, model: str) -> None:
    made = bench(*flags_of(model))
    made.step()
    for name, net in made.model.nets.items():
        idle = [key for key, p in net.named_parameters() if p.grad is None or not bool(p.grad.any())]
        assert not idle, f"{name}: no gradient on {idle}"


# Terms that are no mean over images. Two processes equal one only where there are none.
CROSSING: dict[str, set[str]] = {"sincut": {"NCE", "NCE_Y"}}  # external negatives


@pytest.mark.parametrize("model", MODELS.names())
def test_a_batch_is_the_mean_of_its_images(bench: BenchMaker, model: str) -> None:
    """No term crosses images. What looks at the whole batch, over all processes, is off."""
    off = ("--cam_grad_cap", 0, "--cam_standardise", False) if "CAM" in REACHES[model].get("G", {}) else ()
    flags = (*flags_of(model), "--gan_mode", "wgangp", *off)

    def terms(rows: list[int]) -> dict[str, float]:
        made = bench(*flags)
        batch = made.batch()
        part = {f.name: v for f in fields(batch) if (v := getattr(batch, f.name)) is not None and len(v)}
        part = {k: tuple(v[r] for r in rows) if isinstance(v, tuple) else v[rows] for k, v in part.items()}
        state = made.model.forward_train(replace(batch, **part), made.info())
        return {n: t.item() for phase in made.model.phases for n, t in phase.losses(state).items()}

    both, first, second = terms([0, 1]), terms([0]), terms([1])
    for name in set(both) - CROSSING.get(model, set()):
        assert both[name] == pytest.approx((first[name] + second[name]) / 2, rel=1e-4, abs=1e-7), name


# --- learning

LEARNS = [(m, v) for m, v in variants() if v in ("plain", "FastCUT", "hinge", "l2")]


@pytest.mark.parametrize(("model", "variant"), LEARNS)
def test_each_phase_learns_one_batch_with_the_others_frozen(bench: BenchMaker, model: str, variant: str) -> None:
    for index in range(len(bench(*flags_of(model, variant)).model.phases)):
        made = bench(*flags_of(model, variant), "--lr", 0.001)
        batch, info, phase = made.batch(), made.info(step=1), made.model.phases[index]
        others = {n: _parameters(net) for n, net in made.model.nets.items() if n not in phase.nets}
        totals = []
        for _ in range(20):
            state = made.model.forward_train(batch, info)
            with only_trains(made.model.nets, phase.nets):
                total = torch.stack(list(phase.losses(state).values())).sum()
                for name in phase.nets:
                    made.optimizers[name].zero_grad()
                total.backward()  # type: ignore[no-untyped-call]
                for name in phase.nets:
                    made.optimizers[name].step()
            totals.append(total.item())
        assert totals[-1] < 0.9 * totals[0], (phase.name, totals)
        for name, before in others.items():
            assert torch.equal(before, _parameters(made.model.nets[name])), f"{name} is frozen but moved"


# --- weights of zero

UNWEIGHTED = {"classifier", "std_cl"}  # models of one term
ZERO = {  # of every model that has a weight of that name
    "lambda_GAN": {"G_GAN", "D_fake", "D_real", "D_GP", "D_R1", "D", "G_GAN_A", "G_GAN_B", *BOTH_D},
    "lambda_NCE": {"NCE", "NCE_Y", "NCE_A", "NCE_B"},
    "lambda_GP": {"D_GP", "D_A_GP", "D_B_GP"},
    "lambda_CLS": {"CLS"},
    "lambda_CAM": {"CAM"},
    "lambda_IDT": {"IDT", "IDT_A", "IDT_B"},
    "lambda_EDGE": {"EDGE"},
    "lambda_SL": {"SL"},
    "lambda_CRF": {"CRF"},
    "lambda_SIZE": {"SIZE"},
    "lambda_ENT": {"ENT"},
    "lambda_A": {"CYC_A", "IDT_B"},
    "lambda_B": {"CYC_B", "IDT_A"},
    "lambda_identity": {"IDT_A", "IDT_B", "IDT"},
    "lambda_R1": {"D_R1"},
    "lambda_L1": {"L1"},
}


@pytest.mark.parametrize("model", [name for name in MODELS.names() if name not in UNWEIGHTED])
def test_a_weight_of_zero_computes_nothing(bench: BenchMaker, model: str) -> None:
    made = bench(*flags_of(model), "--gan_mode", "wgangp")
    everything = set(made.step().scalars)
    weights = [name for name, value in vars(made.run.model).items() if name.startswith("lambda_") and value > 0]
    assert weights
    for weight in weights:
        assert weight in ZERO, f"say in ZERO which terms go with --{weight} 0"
        without = bench(*flags_of(model), "--gan_mode", "wgangp", f"--{weight}", 0)
        assert ZERO[weight] & everything
        assert set(without.step().scalars) == everything - ZERO[weight]
        if weight == "lambda_GAN":
            assert not [name for name in without.model.nets if name.startswith("D")]


# --- golden losses


def smooth_batch(number: int, size: int = 32, channels: int = 3) -> Batch:
    """Two smooth random images a domain, without any file: the same everywhere."""

    def images(purpose: str) -> Tensor:
        coarse = torch.rand(2, channels, 8, 8, generator=generator(7, purpose, number))
        return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear") * 2 - 1

    index = torch.tensor([2 * number, 2 * number + 1])
    names = tuple(f"smooth {int(i)}" for i in index)
    return Batch(images("golden A"), images("golden B"), names, names, index % 4, index, index)


def in_double(batch: Batch) -> Batch:
    return replace(batch, A=batch.A.double(), B=None if batch.B is None else batch.B.double())


@pytest.mark.parametrize("model", MODELS.names())
def test_losses_of_five_steps_are_golden(bench: BenchMaker, model: str) -> None:
    """A change of the mathematics shows here. If it is wanted, write the files anew:

    CUTCAM_WRITE_GOLDEN=1 python -m pytest tests/models/test_every_model.py -k golden

    In double precision: Adam's first steps are signs of gradients, which single precision loses where they are small.
    """
    made = bench(*flags_of(model))
    for net in made.model.nets.values():
        net.double()
    steps = [made.step(step, in_double(smooth_batch(step % 2))).scalars for step in range(5)]
    found = [{name: float(value) for name, value in scalars.items()} for scalars in steps]
    path = GOLDEN / f"losses_{model}.json"
    if os.environ.get(WRITE_GOLDEN):
        path.write_text(json.dumps(found, indent=1) + "\n")
    assert path.is_file(), f"{path.name} does not exist; write it with {WRITE_GOLDEN}=1"
    golden = json.loads(path.read_text())
    assert len(golden) == len(found)
    for step, (terms, wanted) in enumerate(zip(found, golden, strict=True)):
        assert terms == pytest.approx(wanted, rel=1e-4, abs=1e-6), f"step {step}"


@pytest.mark.parametrize("name", [name for name in MODELS.names() if MODELS.get(name).unread])
def test_what_a_model_says_it_does_not_read_it_does_not(
    name: str, bench: BenchMaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unread, asked = MODELS.get(name).unread, set[str]()
    case = bench("--model", name, *FULL[name])
    assert "--ngf does nothing here: --model " in capsys.readouterr().err

    def watched(group: object, option: str) -> object:
        if group is case.run.networks or group is case.run.optim:  # not those of a frozen classifier's run
            asked.add(option)
        return object.__getattribute__(group, option)

    for kind in (type(case.run.networks), type(case.run.optim)):
        monkeypatch.setattr(kind, "__getattribute__", watched, raising=False)
    model = MODELS.get(name).from_options(case.run)
    optimizers_from(case.run, model)
    assert asked
    assert not asked & unread
