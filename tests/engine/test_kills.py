"""SIGKILL, SIGTERM and Ctrl-C at any moment: a whole checkpoint, a whole log, and the end of an unbroken run."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from scripts.faults import kills
from scripts.faults.kills import ANY_TIME, VARIANTS, Campaign, PromiseBroken, Run, check_log, compare, differ
from scripts.faults.victim import Order, Server, moments
from util.checkpoint import MAGIC, STATE_FILE, load_state

# `python scripts/torture.py --only kills` goes through all moments and all variants.
PLAN = (
    *("first step", "state: half written", "log: half a line", "k-means", "log: before it is rewritten"),
    *("state: before the weights", "weights: of an epoch", "start: before the state is loaded", "end of an epoch"),
    ANY_TIME,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(MPLBACKEND="TkAgg", DISPLAY="", QT_QPA_PLATFORM="xcb") as server:  # nothing may want a display
        yield server


def test_killed_at_every_kind_of_moment_nothing_is_lost(server: Server, tmp_path: Path) -> None:
    report = Campaign(server, tmp_path, PLAN, 4, ["k-means, page"]).go()
    assert report.kills == dict.fromkeys(PLAN, 1)
    assert report.missed == []
    assert 0 < report.lost <= kills.SAVE_EVERY
    assert report.runs < report.starts


def test_a_plan_names_every_moment_and_as_many_random_ones() -> None:
    plan = kills.plan_of(100, 0)
    assert plan.count(ANY_TIME) == 50
    assert set(plan) == {ANY_TIME, *moments()}
    assert plan != kills.plan_of(100, 1)


# --- one run, step by step


def small_run(server: Server, home: Path, variant: str = "labels") -> Run:
    labelled, flags = VARIANTS[variant]
    return Run(server, home, kills.make_images(home / "data", labelled), flags)


def test_killed_before_its_first_save_a_run_starts_anew_without_cleaning(server: Server, tmp_path: Path) -> None:
    run = small_run(server, tmp_path)
    for moment in ("start: after the options", "state: half written", "state: before the renaming"):
        assert run.go(moment=moment) == -signal.SIGKILL
        assert (run.folder / "options.yaml").exists()
        assert not run.started
    leftovers = {file.name for file in run.folder.iterdir() if file.name.endswith(".part")}
    assert len(leftovers) == 1  # the third start has removed the second one's
    # To continue what never began is refused, with the remedy.
    assert server.run(Order((*run.place, "--continue_train"), str(run.out), str(tmp_path / "begun"))) == 2
    assert f"{run.folder / STATE_FILE} does not exist; start the run without the flag" in run.printed()
    assert run.go() == 0
    left = {file.name for file in run.folder.iterdir()}
    assert not left & leftovers
    assert {name for name in left if name.startswith("log")} == {"log.jsonl"}
    check_log(run.folder, run.begun(), run.begun())


@pytest.mark.parametrize(("variant", "number"), [("labels", signal.SIGINT), ("workers, dropout, bf16", signal.SIGTERM)])
def test_a_signal_to_the_whole_group_saves_and_ends_in_good_order(
    server: Server, tmp_path: Path, variant: str, number: signal.Signals
) -> None:
    """As a batch system and a terminal send it: to the loading processes too."""
    run = small_run(server, tmp_path, variant)
    assert run.go(raised=4, number=number) == 0
    assert load_state(run.folder / STATE_FILE)["position"]["step"] == 4
    assert "stopped after step 4; to continue: python train.py --name run" in run.printed()
    assert "Traceback" not in run.printed()


# --- what the harness itself would notice


def a_log(folder: Path, steps: list[int], torn: bool = False) -> None:
    lines = "".join(json.dumps({"step": step}) + "\n" for step in steps)
    (folder / "log.jsonl").write_text(lines + '{"step": ' * torn)


def test_doubled_missing_and_torn_lines_are_noticed(tmp_path: Path) -> None:
    a_log(tmp_path, [1, 2, 3], torn=True)  # the last line may be torn: continuing removes it
    check_log(tmp_path, 2, 4)
    for steps in ([1, 2, 2, 3], [1, 3], [2, 3], [1, 2, 3, 4, 5], [1]):
        a_log(tmp_path, steps)
        with pytest.raises(PromiseBroken, match="the log holds the steps"):
            check_log(tmp_path, 2, 4)
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"st{"step": 2}\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2: not a JSON object"):
        check_log(tmp_path, 2, 4)


def test_one_bit_is_a_difference() -> None:
    a = {"nets": [torch.ones(3), 1.5], "x": (1, "a")}
    differ(a, {"nets": [torch.ones(3), 1.5], "x": (1, "a")}, "state")
    others = [
        {"nets": [torch.ones(3).nextafter(torch.tensor(2.0)), 1.5], "x": (1, "a")},
        {"nets": [torch.ones(3), 1.5], "x": (1, "b")},
        {"nets": [torch.ones(3).double(), 1.5], "x": (1, "a")},
        {"nets": [torch.ones(3)], "x": (1, "a")},
        {"nets": [torch.ones(3), 1.5]},
    ]
    for other in others:
        with pytest.raises(PromiseBroken, match="state"):
            differ(a, other, "state")


def test_a_run_that_ended_otherwise_is_noticed(tmp_path: Path) -> None:
    from util.checkpoint import save_state

    for name in ("whole", "other"):
        (tmp_path / name).mkdir()
        save_state(tmp_path / name / STATE_FILE, {"position": {"step": 3}})
        a_log(tmp_path / name, [1, 2, 3])
    compare(tmp_path / "whole", tmp_path / "other")
    leftover = tmp_path / "other" / ".latest_state.pt.abcd1234.part"
    leftover.write_bytes(MAGIC)
    with pytest.raises(PromiseBroken, match=r"files: .*part"):
        compare(tmp_path / "whole", tmp_path / "other")
    compare(tmp_path / "whole", tmp_path / "other", files=False)
    a_log(tmp_path / "other", [1, 2, 4])
    with pytest.raises(PromiseBroken, match=r"log\.jsonl\[2\]\.step"):
        compare(tmp_path / "whole", tmp_path / "other", files=False)


def test_a_lost_checkpoint_is_noticed(tmp_path: Path) -> None:
    from util.checkpoint import save_state

    class Killed(Run):
        def __init__(self, folder: Path, begun: int) -> None:
            self.folder, self._steps = folder, begun

        def begun(self) -> int:
            return self._steps

    a_log(tmp_path, [1, 2])
    with pytest.raises(PromiseBroken, match="there is no state"):
        kills.after_kill(Killed(tmp_path, 3))
    save_state(tmp_path / STATE_FILE, {"position": {"step": 2}})
    assert [kills.after_kill(Killed(tmp_path, begun)) for begun in (2, 3, 4)] == [0, 2, 4]
    with pytest.raises(PromiseBroken, match=r"step 5 was begun, the checkpoint is of step 2"):
        kills.after_kill(Killed(tmp_path, 5))
