"""Votes read back: every file strictly against the key, every participant once, and who is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.studying.building import BROKEN, FORMAT, GOOD
from util.errors import UserError, printable
from util.strict_json import Fields, JsonError, read_json

_PARTICIPANT = re.compile(r"[0-9a-f]{16}")
_MOST_BYTES = 2**22  # of a file of votes: tens of thousands of trials
_KINDS = ("vote", "catch", "attention")


class VotesError(UserError, ValueError):
    """Votes that cannot be scored; the message names the file and what is wrong."""


@dataclass(frozen=True)
class KeyTrial:
    """What a trial is: its kind, its image, and by the id of a picture whose it is."""

    kind: str
    file: str
    pictures: Mapping[str, str]


@dataclass(frozen=True)
class Key:
    """The key of a study."""

    study: str
    question: str
    methods: tuple[str, str]
    trials: Mapping[str, KeyTrial]

    def of_kind(self, kind: str) -> list[str]:
        """Ids of the trials of a kind, in order."""
        return [name for name, trial in self.trials.items() if trial.kind == kind]


@dataclass(frozen=True)
class Vote:
    """One answered trial: the picture chosen, its side, after how many milliseconds; and the side asked for, if any."""

    trial: str
    chosen: str
    side: str
    ms: int
    asked: str = ""


@dataclass(frozen=True)
class Ballot:
    """The votes of one participant, in the order they were given."""

    path: Path
    participant: str
    votes: tuple[Vote, ...]

    def misses(self, key: Key) -> int:
        """Catch trials and attention checks answered wrongly, or not at all."""
        right = 0
        for vote in self.votes:
            trial = key.trials[vote.trial]
            right += trial.kind == "catch" and trial.pictures[vote.chosen] == GOOD
            right += trial.kind == "attention" and vote.side == vote.asked
        return len(key.of_kind("catch")) + len(key.of_kind("attention")) - right


@dataclass(frozen=True)
class Box:
    """The ballots of a study.

    Args:
        kept: those that count.
        failed: participants who missed more checks than allowed, with how many.
        rejected: files that are no votes of this study, with the reason.
    """

    kept: Sequence[Ballot]
    failed: Mapping[str, int]
    rejected: Mapping[str, str]


# --- key


def read_key(path: Path) -> Key:
    """The key that `user_study.py build` wrote.

    Raises:
        JsonError: it is damaged.
    """
    top = Fields(read_json(path), printable(path))
    if top.whole("format") != FORMAT:
        top.refuse("format", str(FORMAT))
    methods = top.items("methods")
    if len(methods) != 2 or not all(isinstance(name, str) for name in methods) or methods[0] == methods[1]:
        top.refuse("methods", "two different names")
    trials = top.object("trials")
    known = {name: _key_trial(trials.object(name), methods) for name in trials.content}
    key = Key(top.text("study"), top.text("question"), (methods[0], methods[1]), known)
    return key if key.of_kind("vote") else top.refuse("trials", "trials of kind vote")


def _key_trial(fields: Fields, methods: Sequence[str]) -> KeyTrial:
    kind = fields.text("kind")
    if kind not in _KINDS:
        fields.refuse("kind", f"one of {', '.join(_KINDS)}")
    pictures = fields.object("pictures")
    whose = {name: pictures.text(name) for name in pictures.content}
    if sorted(whose.values()) != sorted((GOOD, BROKEN) if kind == "catch" else methods):
        fields.refuse("pictures", "one of each")
    return KeyTrial(kind, fields.text("file"), whose)


# --- votes


def read_votes(path: Path, key: Key) -> Ballot:
    """One participant's file.

    Raises:
        JsonError, VotesError: it is damaged, of another study, or no possible answer to this one.
    """
    where = printable(path)
    top = Fields(read_json(path, _MOST_BYTES), where)
    if top.whole("format") != FORMAT:
        top.refuse("format", str(FORMAT))
    if (study := top.text("study")) != key.study:
        raise VotesError(f"{where}: is of the study {printable(study[:20])}, not of {key.study}")
    participant = top.text("participant")
    if not _PARTICIPANT.fullmatch(participant):
        top.refuse("participant", "16 hexadecimal digits")
    votes = [_vote(Fields(item, f"{where}, vote {n}"), key) for n, item in enumerate(top.items("votes"), 1)]
    for number, vote in enumerate(votes, 1):
        if any(vote.trial == other.trial for other in votes[: number - 1]):
            raise VotesError(f"{where}, vote {number}: the trial {vote.trial} was answered before")
    return Ballot(path, participant, tuple(votes))


def _vote(fields: Fields, key: Key) -> Vote:
    name, chosen = fields.text("trial"), fields.text("chosen")
    trial = key.trials.get(name)
    if trial is None:
        fields.refuse("trial", "a trial of this study")
    sides = {fields.text(side): side for side in ("left", "right")}
    if set(sides) != set(trial.pictures):
        fields.refuse("left", "one picture of the trial, and right the other")
    if chosen not in sides:
        fields.refuse("chosen", "one of the two pictures")
    asked = fields.text("asked") if trial.kind == "attention" else ""
    if trial.kind == "attention" and asked not in ("left", "right"):
        fields.refuse("asked", "left or right")
    return Vote(name, chosen, sides[chosen], fields.whole("ms"), asked)


def collect(paths: Sequence[Path], key: Key, allowed_misses: int = 0) -> Box:
    """All files of votes, sorted into those that count and those that do not.

    Of two files of one participant the longer counts if the shorter is its beginning (it was sent before the end);
    if they contradict each other, neither does.

    Raises:
        VotesError: no file is left.
    """
    rejected: dict[str, str] = {}
    by_participant: dict[str, list[Ballot]] = {}
    for path in dict.fromkeys(paths):
        try:
            ballot = read_votes(path, key)
        except (JsonError, VotesError) as error:
            rejected[str(path)] = str(error).removeprefix(f"{printable(path)}: ")
            continue
        by_participant.setdefault(ballot.participant, []).append(ballot)
    whole = [one for ballots in by_participant.values() if (one := _one_of(ballots, rejected))]
    failed = {ballot.participant: ballot.misses(key) for ballot in whole if ballot.misses(key) > allowed_misses}
    kept = [ballot for ballot in whole if ballot.participant not in failed and _counts(ballot, key)]
    for ballot in whole:
        if ballot.participant not in failed and not _counts(ballot, key):
            rejected[str(ballot.path)] = "holds no vote"
    if not kept:
        reasons = [f"{printable(path)}: {reason}" for path, reason in rejected.items()]
        reasons += [f"participant {name} missed {misses} checks" for name, misses in failed.items()]
        raise VotesError(f"no votes are left to score: {'; '.join(reasons) or 'no file was named'}")
    return Box(kept, failed, rejected)


def _one_of(ballots: Sequence[Ballot], rejected: dict[str, str]) -> Ballot | None:
    longest = max(ballots, key=lambda ballot: len(ballot.votes))
    fit = all(ballot.votes == longest.votes[: len(ballot.votes)] for ballot in ballots)
    for ballot in ballots:
        if not fit:
            rejected[str(ballot.path)] = f"participant {ballot.participant} has files that contradict each other"
        elif ballot is not longest:
            rejected[str(ballot.path)] = f"participant {ballot.participant} is in {printable(longest.path)} already"
    return longest if fit else None


def _counts(ballot: Ballot, key: Key) -> bool:
    return any(key.trials[vote.trial].kind == "vote" for vote in ballot.votes)


def votes_for(ballot: Ballot, key: Key) -> dict[str, str]:
    """Trial -> method, of the trials that count."""
    trials: dict[str, Any] = {vote.trial: vote.chosen for vote in ballot.votes if key.trials[vote.trial].kind == "vote"}
    return {trial: key.trials[trial].pictures[chosen] for trial, chosen in trials.items()}
