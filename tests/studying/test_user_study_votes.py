"""Votes of a user study: read strictly, every participant once, scored by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.comparing.tables import FORMATS, render
from scripts.studying.scoring import Scoring, report_of
from scripts.studying.votes import Key, VotesError, collect, read_key, read_votes
from scripts.user_study import main
from tests.studying.conftest import Content, answers, plan, send
from util.errors import exit_code
from util.statistics import fleiss_kappa, krippendorff_alpha, proportion
from util.strict_json import JsonError


def test_votes_are_read_as_they_were_given(tmp_path: Path, key: Key) -> None:
    ballot = read_votes(send(tmp_path, answers(key, 7, "fastcut"))[0], key)
    assert ballot.participant == "0000000000000007"
    assert len(ballot.votes) == 8
    assert ballot.misses(key) == 0
    assert {key.trials[v.trial].pictures[v.chosen] for v in ballot.votes} == {"fastcut", "good"}
    assert {vote.side for vote in ballot.votes} == {"left", "right"}


def first(content: Content) -> Content:
    vote: Content = content["votes"][0]
    return vote


DAMAGE: dict[str, Callable[[Content], Any]] = {
    "format": lambda c: c.update(format=2),
    "study": lambda c: c.update(study="another"),
    "participant": lambda c: c.update(participant="../../x"),
    "votes": lambda c: c.update(votes={"a": 1}),
    "vote 1: should be an object": lambda c: c["votes"].insert(0, "x"),
    "trial": lambda c: first(c).update(trial="x"),
    "left": lambda c: first(c).update(left=first(c)["right"]),
    "chosen": lambda c: first(c).update(chosen="x"),
    "ms": lambda c: first(c).update(ms=-1),
    "answered before": lambda c: c["votes"].append(c["votes"][0]),
    "asked": lambda c: [vote.update(asked="up") for vote in c["votes"] if "asked" in vote],
}


@pytest.mark.parametrize("what", DAMAGE)
def test_votes_that_nobody_can_have_given_are_named(tmp_path: Path, key: Key, what: str) -> None:
    content = answers(key, 1, "cutcam")
    DAMAGE[what](content)
    with pytest.raises((JsonError, VotesError), match=rf"votes_0\.json.*{what}") as caught:
        read_votes(send(tmp_path, content)[0], key)
    assert "\n" not in str(caught.value)


def test_hostile_files_are_left_out_by_name_and_the_rest_counts(tmp_path: Path, key: Key) -> None:
    good = send(tmp_path, answers(key, 1, "cutcam"), answers(key, 2, "fastcut"))
    texts = [b"", b"\xff", b"[" * 99999, b'{"study": NaN}', b'{"a": 1, "a": 2}', b"9" * 5000, b'{"format": "\\ud800"}']
    bad = [tmp_path / f"bad{n}.json" for n in range(len(texts))]
    for path, text in zip(bad, texts, strict=True):
        path.write_bytes(text)
    box = collect([*bad, *good, tmp_path / "absent.json", good[0]], key)
    assert [ballot.participant[-1] for ballot in box.kept] == ["1", "2"]
    assert set(box.rejected) == {str(path) for path in [*bad, tmp_path / "absent.json"]}
    for form in FORMATS:
        assert "bad3.json" in render(report_of(Scoring(key, box, 0)), form).replace("\\", "")
    with pytest.raises(VotesError, match=r"no votes are left to score: .*bad0\.json"):
        collect(bad, key)


def test_a_participant_counts_once(tmp_path: Path, key: Key) -> None:
    early, whole = answers(key, 1, "cutcam", stop=4), answers(key, 1, "cutcam")
    other, twin = answers(key, 2, "cutcam"), answers(key, 2, "fastcut")
    paths = send(tmp_path, early, whole, whole, other, twin, answers(key, 3, "cutcam"))
    box = collect(paths, key)
    assert [(ballot.participant[-1], len(ballot.votes)) for ballot in box.kept] == [("1", 8), ("3", 8)]
    reasons = {Path(path).name: reason for path, reason in box.rejected.items()}
    assert sorted(reasons) == ["votes_0.json", "votes_2.json", "votes_3.json", "votes_4.json"]
    assert "is in" in reasons["votes_0.json"]
    assert "contradict" in reasons["votes_3.json"]


def test_who_misses_checks_is_left_out_by_the_stated_rule(tmp_path: Path, key: Key) -> None:
    inattentive = answers(key, 3, "cutcam")
    for vote in inattentive["votes"]:
        if "asked" in vote:
            vote["asked"] = {"left": "right", "right": "left"}[vote["asked"]]
    unfinished = answers(key, 4, "cutcam") | {"votes": []}
    paths = send(tmp_path, answers(key, 1, "cutcam"), answers(key, 2, "cutcam", misses=2), inattentive, unfinished)
    box = collect(paths, key)
    assert {name[-1]: misses for name, misses in box.failed.items()} == {"2": 2, "3": 1, "4": 3}
    lenient = collect(paths, key, allowed_misses=1)
    assert [ballot.participant[-1] for ballot in lenient.kept] == ["1", "3"]
    said = " ".join(render(report_of(Scoring(key, box, 0)), "terminal").split())
    assert "Left out: 3, by the rule that at most 0 of 3 checks may be wrong or not answered" in said
    assert "participant 0000000000000002 missed 2 checks" in said
    box = collect(paths, key, allowed_misses=3)
    assert Path(next(iter(box.rejected))).name == "votes_3.json"  # not one vote


@pytest.mark.parametrize("what", ["format", "methods", "kind", "pictures", "vote"])
def test_a_damaged_key_is_named(study: Path, what: str) -> None:
    content = json.loads((study / "key.json").read_text())
    trial = next(iter(content["trials"].values()))
    changes: dict[str, Callable[[], Any]] = {
        "format": lambda: content.update(format=0),
        "methods": lambda: content.update(methods=["a", "a"]),
        "kind": lambda: trial.update(kind="x"),
        "pictures": lambda: trial.update(pictures={"x": "cutcam"}),
        "vote": lambda: content.update(trials={k: t for k, t in content["trials"].items() if t["kind"] != "vote"}),
    }
    changes[what]()
    (study / "key.json").write_text(json.dumps(content))
    with pytest.raises(JsonError, match=rf"key\.json.*{what}"):
        read_key(study / "key.json")


# --- scoring


def test_scores_by_hand(tmp_path: Path, key: Key) -> None:
    """Three participants, five images; the third stops early."""
    files = [key.trials[trial].file for trial in key.of_kind("vote")]
    second = {files[0]: "fastcut"}
    third = answers(key, 3, dict.fromkeys(files, "fastcut"))
    third["votes"] = [v for v in third["votes"] if key.trials[v["trial"]].file not in files[3:]]
    paths = send(tmp_path, answers(key, 1, "cutcam"), answers(key, 2, second), third)
    scoring = Scoring(key, collect(paths, key), 0)
    assert scoring.counts.tolist() == [[1, 2], [2, 1], [2, 1], [2, 0], [2, 0]]
    assert scoring.preference == proportion(9, 13)
    assert scoring.kappa is None  # not the same number of votes everywhere
    assert scoring.alpha == krippendorff_alpha([[1, 2], [2, 1], [2, 1], [2, 0], [2, 0]])
    assert scoring.images[-1] == (files[0], 1, 2)
    # Shares 1, 0.8 and 0: 0.5 + 0.3 - 0.5 is as near to zero as signs can bring it.
    assert (scoring.participants_test.p, scoring.participants_test.draws) == (1, 8)
    assert scoring.by_participants is not None
    assert (scoring.by_participants.low, scoring.by_participants.high) == (0, 1)
    whole = Scoring(key, collect(paths[:2], key), 0)
    assert whole.kappa == fleiss_kappa([[1, 1], [2, 0], [2, 0], [2, 0], [2, 0]])


def test_sides_are_counted(tmp_path: Path, key: Key) -> None:
    content = answers(key, 1, "cutcam")
    for vote in content["votes"]:
        if "asked" not in vote:
            vote["left"], vote["right"] = vote["chosen"], ({vote["left"], vote["right"]} - {vote["chosen"]}).pop()
    assert Scoring(key, collect(send(tmp_path, content), key), 0).left == proportion(5, 5)


def test_the_script_builds_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(tmp_path)
    pair = [f"{name}={folder}" for name, folder in made.methods.items()]
    command = ["build", "--pair", *pair, "--question", "Which?", "--n", "4", "--output", str(tmp_path / "out")]
    assert main([*command, "--reference", str(made.context["input"])]) == 0
    assert "key.json" in capsys.readouterr().out
    key = read_key(tmp_path / "out/key.json")
    paths = [
        str(path) for path in send(tmp_path, *(answers(key, n, "fastcut" if n % 4 else "cutcam") for n in range(8)))
    ]
    for form in FORMATS:
        assert main(["score", str(tmp_path / "out/key.json"), *paths, "--format", form]) == 0
        said = capsys.readouterr().out
        assert "8 of 32" in said or form == "json"
    data = json.loads(said)
    assert data["votes"] == {"first": 8, "total": 32, "share": 0.25}
    assert data["intervals"]["participants"] == pytest.approx([0, 0.625])
    assert data["fleiss_kappa"] == pytest.approx(fleiss_kappa([[2, 6]] * 4))
    assert len(data["images"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pair", "a=x", "a=y"], "--pair: both methods are called a"),
        (["--pair", "a", "b=y"], "--pair a: should be NAME=FOLDER"),
        (["--pair", "input=x", "b=y", "--input", "z"], "--pair: a method may not be called input"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: main(["build", *arguments, "--question", "?", "--output", "nowhere"])) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
