"""Explainers where the network is: on a device that computes nothing, no operator meets tensors of the host."""

from __future__ import annotations

import pytest

from models.cam.base import EXPLAINERS
from models.cam.explain import explain
from tests.cam.tiny_networks import TinyNet, filled, pictures
from tests.elsewhere import ELSEWHERE, MIXED, noting


@pytest.mark.parametrize("method", EXPLAINERS.names())
def test_an_explainer_leaves_nothing_on_the_host(method: str) -> None:
    net = filled(TinyNet()).eval().to(ELSEWHERE)
    with noting() as found:
        maps = explain(net, pictures().to(ELSEWHERE), method, targets=1)[method].maps
    assert maps.device == ELSEWHERE
    assert [line for line in found if MIXED in line] == []
