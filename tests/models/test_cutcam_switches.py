"""What switches CUTCAM's terms on and off, and what is refused or warned about before training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from models.augmenting import augmented
from options.schema import OptionError
from tests.models.cutcam_bench import HEAD, cutcam
from util.engine.trainer import Trainer
from util.seeding import StepInfo

if TYPE_CHECKING:
    from tests.conftest import BenchMaker, DataMaker, Trained


def test_ramps_do_not_fall_when_a_run_is_made_longer(bench: BenchMaker) -> None:
    model = cutcam(bench(*HEAD))
    assert model.ramps(StepInfo(0, 100, 10.0, 1.0)) == (1.0, 1.0)
    longer = StepInfo(0, 101, 10.1, 0.01)  # the same place in a run of a hundred times the length
    assert model.ramps(longer) == (1.0, 1.0)
    other = cutcam(bench(*HEAD))
    assert other.ramps(longer) == (1.0, 0.0)
    other.load_extra_state(model.extra_state())
    assert other.ramps(longer) == (1.0, 1.0)
    other.watch.collapsed = True
    assert other.ramps(longer) == (0.0, 0.0)


def test_explaining_is_without_dropout(bench: BenchMaker) -> None:
    case = bench(*HEAD, "--head_dropout", "0.5")
    case.model.train()
    image = case.batch().A
    first, second = (case.model.explain(image, image) for _ in range(2))
    assert first.probabilities.equal(second.probabilities)


def test_both_sides_are_unweighted_where_the_class_is_unknown(bench: BenchMaker, data: DataMaker) -> None:
    unlabelled = data(labelled=())
    case = bench(*HEAD, "--cam_weight_adv", "--pseudo_labels", "none", data=unlabelled)
    model = cutcam(case)
    state = model.forward_train(case.batch(), case.info())
    weights = model.gan_weights(state)
    assert weights.d_fake is not None
    assert weights.d_real is not None
    assert weights.d_fake.eq(1).all()
    assert weights.d_real.eq(1).all()


def test_known_classes_weight_both_sides(bench: BenchMaker) -> None:
    case = bench(*HEAD, "--cam_weight_adv")
    model = cutcam(case)
    weights = model.gan_weights(model.forward_train(case.batch(), case.info()))
    for side in (weights.d_fake, weights.d_real):
        assert side is not None
        assert side.std() > 0
        torch.testing.assert_close(side.mean(dim=(1, 2, 3)), torch.ones(len(side)))


def test_pseudo_labels_are_made_where_only_d_s_weights_read_them(bench: BenchMaker, data: DataMaker) -> None:
    def said(*extra: str) -> list[str]:
        case = bench(*HEAD, "--lambda_CLS", "0", "--lambda_CAM", "0", *extra, data=data(labelled=()))
        files = range(len(case.dataset.source_files))
        images = [case.dataset.collate([case.dataset.whole_source(file)]) for file in files]
        case.model.begin_epoch(case.info(), lambda: images)
        return [message for message in case.model.messages if message.startswith("pseudo-labels")]

    assert not said()
    assert len(said("--cam_weight_adv")) == 1


@pytest.mark.parametrize(("flags", "warned"), [((), False), (("--cam_method", "label_free"), False), (("x",), True)])
def test_an_untrained_head_is_warned_about(bench: BenchMaker, flags: tuple[str, ...], warned: bool) -> None:
    extra = ("--lambda_CLS", "0") if flags else ()
    case = bench(*HEAD, *extra, *(flags if flags != ("x",) else ()))
    assert any("nothing trains the class head" in message for message in case.model.messages) is warned


def test_the_penalty_of_wgangp_refuses_batch_norm(bench: BenchMaker) -> None:
    with pytest.raises(OptionError, match=r"--gan_mode wgangp.*--normD batch.*--normD instance"):
        bench("--model", "cut", "--gan_mode", "wgangp", "--normD", "batch")


def test_the_log_has_a_share_for_each_class_that_sum_to_one(bench: BenchMaker) -> None:
    case = bench(*HEAD)
    result: Any = case.step()
    values = case.model.monitors(result.state)
    shares = [float(value) for name, value in values.items() if name.startswith("head_share_")]
    assert len(shares) == 4
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)
    assert values["CAM_dead_fake"] in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_a_run_owns_its_folder_from_the_start(
    train_run: Trained, data: DataMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Killed(BaseException):  # no error: that would take the first checkpoint along
        pass

    def die(self: Trainer, *_: object) -> None:
        raise Killed

    monkeypatch.setattr(Trainer, "_run_step", die)
    with pytest.raises(Killed):
        train_run("a", data(), "--model", "cut")
    assert (tmp_path / "a" / "run" / "latest_state.pt").is_file()
    monkeypatch.undo()


def test_the_last_epoch_has_a_panel(train_run: Trained, data: DataMaker) -> None:
    flags = ("--model", "cut", "--n_epochs", "3", "--n_epochs_decay", "0", "--panel_freq", "2", "--max_iters", "0")
    run = train_run("a", data(), *flags)
    assert [file.name for file in sorted((run / "panels").iterdir())] == [
        "epoch_001.png",
        "epoch_002.png",
        "epoch_003.png",
    ]


def test_quiet_does_not_silence_warnings(
    train_run: Trained, data: DataMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    train_run("a", data(), *HEAD, "--quiet", "--lambda_CLS", "0", "--max_iters", "1")
    assert "nothing trains the class head" in capsys.readouterr().err


def test_an_image_is_the_same_wherever_it_stands_in_an_epoch(bench: BenchMaker, data: DataMaker) -> None:
    """One source image, which comes as often as there are images of the target: it has no other to differ from."""
    case = bench(*HEAD, "--cam_norm", "contrast", data=data(count=(1, 4)))
    model = cutcam(case)
    for step in range(3):
        result: Any = case.step(step)
    assert set(model.bank.images.tolist()) == {0}
    assert not model.bank.others(torch.tensor([0]))[1].any()
    assert model.monitors(result.state)["CAM_cross_corr"].isnan()


def test_the_head_may_judge_changed_translations_in_a_pass_of_their_own(bench: BenchMaker) -> None:
    made, plain = bench(*HEAD, "--cls_augment", "blur,translation"), bench(*HEAD)
    model, batch = cutcam(made), made.batch()
    state, usual = model.forward_train(batch, made.info()), cutcam(plain).forward_train(batch, plain.info())
    shown = augmented(state.fake_B, ("blur", "translation"), batch, made.info(), "cls_augment")
    hidden = model.head.hidden_map(model.generator.encode(shown, [model.nce_layers[model.cam_index]])[0])
    torch.testing.assert_close(state.logits_fake, model.head.logits_from_hidden(hidden, frozen=True))
    assert not torch.allclose(state.logits_fake, usual.logits_fake)
    for name in ("fake_B", "logits_A", "logits_seen", "cam_A", "cam_fake"):  # maps are those of G(x) itself
        torch.testing.assert_close(getattr(state, name), getattr(usual, name))
    slopes = torch.autograd.grad(state.logits_fake.sum(), list(model.nets["G"].parameters()), allow_unused=True)
    assert max(float(slope.abs().max()) for slope in slopes if slope is not None) > 0
    torch.testing.assert_close(model.monitors(state)["head_acc_fake"], cutcam(plain).monitors(usual)["head_acc_fake"])
    off = cutcam(bench(*HEAD, "--cls_augment", "blur", "--lambda_CLS", 0)).forward_train(batch, made.info())
    torch.testing.assert_close(off.logits_fake, usual.logits_fake)  # nothing asks for the class


def test_classes_without_an_image_are_told(bench: BenchMaker) -> None:
    four = cutcam(bench(*HEAD))
    assert not any("never have an example" in line for line in four.messages)
    thirty = cutcam(bench(*HEAD, "--num_classes", 30))
    assert any(
        "classes of --num_classes have an image" in line and line.startswith("WARNING") for line in thirty.messages
    )
