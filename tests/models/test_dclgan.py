"""DCLGAN against its formulas written out slowly: every feature encoded anew, every row in a loop."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from models.networks import Generator, draw_patch_ids
from options.parse import train_options
from options.schema import OptionError

if TYPE_CHECKING:
    from tests.conftest import Bench, BenchMaker

DCL = ("--model", "dclgan", "--batch_size", 2, "--num_patches", 8)


def slow_nce(made: Bench, image: Tensor, fake: Tensor, names: tuple[str, str, str, str], purpose: str) -> Tensor:
    """PatchNCE of one direction: keys by one encoder and embedding, queries by the other's (eq. 4 and 5).

    Args:
        names: of the generator and embedding of keys, then of queries.
    """
    model: Any = made.model
    key_net: Generator = model.nets[names[0]]
    query_net: Generator = model.nets[names[2]]
    with torch.no_grad():
        keys = key_net.encode(image, model.nce_layers)
    queries = query_net.encode(fake, model.nce_layers)
    sizes = [k[0, 0].numel() for k in keys]
    ids = draw_patch_ids(sizes, model.num_patches, made.run.experiment.seed, 5, purpose=purpose)
    layers = []
    for number, (key, query, chosen) in enumerate(zip(keys, queries, ids, strict=True)):
        embed_key, embed_query = (model.nets[name].get_submodule(f"mlp_{number}") for name in (names[1], names[3]))
        rows = []
        for k, q in zip(key.flatten(2), query.flatten(2), strict=True):
            unit_k, unit_q = embed_key(k[:, chosen].t()).detach(), embed_query(q[:, chosen].t())
            unit_k, unit_q = (v / (v.norm(dim=1, keepdim=True) + 1e-7) for v in (unit_k, unit_q))
            for i in range(len(chosen)):
                others = [unit_q[i] @ unit_k[j] for j in range(len(chosen)) if j != i]
                logits = torch.stack([unit_q[i] @ unit_k[i], *others, torch.tensor(-10.0)]) / model.nce_T
                rows.append(logits.logsumexp(0) - logits[0])
        layers.append(torch.stack(rows).mean())
    return torch.stack(layers).mean()


def slow_total(made: Bench, batch: Any, gan: float, nce: float, idt: float) -> Tensor:
    """G's loss with lsgan."""
    x, y = batch.A, batch.B
    there, back, judge_y, judge_x = (made.model.nets[name] for name in ("G_A", "G_B", "D_A", "D_B"))
    adversarial = (judge_y(there(x)) - 1).square().mean() + (judge_x(back(y)) - 1).square().mean()
    contrast = slow_nce(made, x, there(x), ("G_A", "F1", "G_B", "F2"), "patches A")
    contrast = contrast + slow_nce(made, y, back(y), ("G_B", "F2", "G_A", "F1"), "patches B")
    identity = (there(y) - y).abs().mean() + (back(x) - x).abs().mean()
    total: Tensor = 0.5 * (gan * adversarial + nce * contrast + idt * identity)
    return total


@pytest.mark.parametrize("weights", [(1.0, 2.0, 1.0), (0.5, 3.0, 7.0)])
def test_g_s_loss_and_gradients_are_those_of_the_formulas(
    bench: BenchMaker, weights: tuple[float, float, float]
) -> None:
    flags = [w for pair in zip(("--lambda_GAN", "--lambda_NCE", "--lambda_IDT"), weights, strict=True) for w in pair]
    made = bench(*DCL, "--init_gain", 1, *flags)
    for net in made.model.nets.values():
        net.double()
    batch = replace(made.batch(), A=made.batch().A.double(), B=made.batch().target.double())
    state = made.model.forward_train(batch, made.info(5))
    total = torch.stack(list(made.model.phases[1].losses(state).values())).sum()
    slow = slow_total(made, batch, *weights)
    torch.testing.assert_close(total, slow, rtol=1e-9, atol=1e-9)
    parameters = [p for name in ("G_A", "G_B", "F1", "F2") for p in made.model.nets[name].parameters()]
    both = [torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (total, slow)]
    assert all((a is None) == (b is None) for a, b in zip(*both, strict=True))
    fast, expected = (torch.cat([g.flatten() for g in gradients if g is not None]) for gradients in both)
    assert float((fast - expected).norm() / expected.norm()) < 1e-9


def test_the_discriminators_are_trained_first_on_both_domains(bench: BenchMaker) -> None:
    made = bench(*DCL, "--init_gain", 0.2)
    assert [(phase.name, phase.nets) for phase in made.model.phases] == [
        ("D", ("D_A", "D_B")),
        ("G", ("G_A", "G_B", "F1", "F2")),
    ]
    batch, nets = made.batch(), made.model.nets
    terms = made.model.phases[0].losses(made.model.forward_train(batch, made.info()))
    expected = {
        "D_A_real": 0.5 * (nets["D_A"](batch.target) - 1).square().mean(),
        "D_A_fake": 0.5 * nets["D_A"](nets["G_A"](batch.A)).square().mean(),
        "D_B_real": 0.5 * (nets["D_B"](batch.A) - 1).square().mean(),
        "D_B_fake": 0.5 * nets["D_B"](nets["G_B"](batch.target)).square().mean(),
    }
    assert {n: t.item() for n, t in terms.items()} == pytest.approx(
        {n: t.item() for n, t in expected.items()}, rel=1e-5
    )


def test_a_pool_shows_earlier_translations(bench: BenchMaker) -> None:
    made = bench(*DCL, "--pool_size", 1)
    states: list[Any] = [made.step(step).state for step in range(6)]
    earlier = [not torch.equal(a, b) for s in states for a, b in zip(s.shown_B, s.fake_B, strict=True)]
    assert 0 < sum(earlier) < 12


def test_domains_of_different_channels_are_contrasted_by_encoders_of_their_own(bench: BenchMaker) -> None:
    made = bench(*DCL, "--input_nc", 1, "--lambda_IDT", 0, "--nce_layers", "0,4,8")
    state: Any = made.step().state
    assert (state.fake_B.shape[1], state.fake_A.shape[1]) == (3, 1)
    assert (state.key_A[0].shape[1], state.query_A[0].shape[1]) == (1, 3)


def test_the_defaults_are_the_published_ones() -> None:
    run = train_options(["--dataroot", "x", "--model", "dclgan"])
    here = {name: value for group in run.groups() for name, value in vars(group).items()}
    expected = {
        "lambda_GAN": 1.0,
        "lambda_NCE": 2.0,
        "lambda_IDT": 1.0,
        "nce_layers": (4, 8, 12, 16),
        "nce_T": 0.07,
        "num_patches": 256,
        "netF": "mlp_sample",
        "netF_nc": 256,
        "pool_size": 0,
        "no_antialias": False,
        "gan_mode": "lsgan",
        "init_type": "xavier",
        "n_epochs": 200,
        "n_epochs_decay": 200,
    }
    assert {name: here[name] for name in expected} == expected
    unet = train_options(["--dataroot", "x", "--model", "dclgan", "--netG", "unet_256"])
    assert vars(unet.model)["nce_layers"] == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--nce_layers", "0,99"), "--nce_layers 0,99: no layer 99 in ResnetGenerator"),
        (("--nce_layers", "8,4"), "--nce_layers 8,4: names layers once, in rising order; write 4,8"),
        (("--nce_layers", ","), "--nce_layers : names layers once, in rising order; write at least one layer"),
        (("--input_nc", 1), "--input_nc 1 and --output_nc 3: .* or use --lambda_IDT 0"),
        (("--gan_mode", "wgangp", "--normD", "batch"), "--gan_mode wgangp: .*use --normD instance"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    bench: BenchMaker, flags: tuple[object, ...], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        bench(*DCL, *flags)


def test_a_run_translates_both_ways(bench: BenchMaker) -> None:
    model, image = bench(*DCL).model, torch.rand(1, 3, 32, 32)
    there = model.translate(image)
    model.turn_round()
    assert torch.equal(there, model.nets["G_A"](image))
    assert torch.equal(model.translate(image), model.nets["G_B"](image))
    assert (model.inference_nets, model.averaged_nets) == (("G_B",), ("G_A", "G_B"))
