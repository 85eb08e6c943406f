"""The published encoders in miniature: std_cl takes a step, F-CAM takes over its classifier, takes a step, and maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.fcam_model import FcamModel
from models.networks.frozen_classifier import FrozenClassifier
from models.networks.staged_classifier import StagedClassifier
from models.std_cl_model import StdClModel
from options.parse import OPTIONS_FILE
from options.yaml_config import dump_yaml
from tests.conftest import BenchMaker
from util.checkpoint import export_weights

CLASSES = ("--num_classes", 4, "--batch_size", 2, "--load_size", 36, "--crop_size", 32)
FCAM = ("--model", "fcam", "--decoder_width", 8, "--sl_fg_erode_k", 3, *CLASSES[2:])


def cloned(net: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


@pytest.mark.parametrize(
    ("arch", "weights", "deepest"),
    [("resnet50", 23_516_228, 2048), ("vgg16", 19_438_404, 1024), ("inceptionv3", 25_487_076, 1024)],
)
def test_std_cl_then_fcam_then_maps(bench: BenchMaker, tmp_path: Path, arch: str, weights: int, deepest: int) -> None:
    made = bench("--model", "std_cl", "--arch", arch, *CLASSES)
    assert isinstance(made.model, StdClModel)
    first = cloned(made.model.classifier)
    made.step()
    after = cloned(made.model.classifier)
    assert all(bool(value.isfinite().all()) for value in after.values())
    head = [name for name in after if name.startswith("head.")]
    assert head
    assert not any(torch.equal(first[name], after[name]) for name in head)

    (tmp_path / "cl").mkdir()
    (tmp_path / "cl" / OPTIONS_FILE).write_text(dump_yaml(made.run.groups()))
    export_weights(tmp_path / "cl" / "latest_net_C.pth", after)
    made = bench(*FCAM, "--classifier_run", tmp_path / "cl")
    model = made.model
    assert isinstance(model, FcamModel)
    model.load_first_weights()
    assert isinstance(model.classifier, FrozenClassifier)
    assert (model.classifier.weights, model.classifier.stage_channels[-1]) == (weights, deepest)
    decoder = cloned(model.decoder)
    made.step()
    kept = cloned(model.classifier)
    assert all(torch.equal(kept[name], after[name]) for name in after)
    assert not torch.equal(decoder["head.weight"], model.decoder.state_dict()["head.weight"])

    model.train(False)
    images = made.batch().A
    full, seen = model.maps_and_cams(images, torch.tensor([1, -1]))
    assert full.shape == seen.cam.shape == (2, 32, 32)
    assert bool(((full >= 0) & (full <= 1)).all())
    net = model.classifier.net
    assert isinstance(net, StagedClassifier)
    low = net.map_of(seen.stages[-1], seen.classes)  # the classifier's own map, in closed form
    assert seen.classes.tolist() == [1, int(seen.logits[1].argmax())]
    flat = low.flatten(1)
    flat = (flat - flat.amin(1, keepdim=True)) / (flat.amax(1, keepdim=True) - flat.amin(1, keepdim=True))
    own = torch.nn.functional.interpolate(flat.view_as(low)[:, None], (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen.cam, own[:, 0], rtol=1e-3, atol=1e-3)
