"""Preference, its uncertainty, and how far participants agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.comparing.tables import Cell, Report, Table, p_text
from scripts.studying.votes import Ballot, Box, Key, votes_for
from util.errors import printable
from util.statistics import (
    DRAWS,
    Interval,
    Proportion,
    Test,
    cluster_interval,
    fleiss_kappa,
    krippendorff_alpha,
    proportion,
    sign_flip_test,
)

_SEED = 20_260_102  # of the resampling: equal votes give equal numbers


@dataclass(frozen=True)
class Scoring:
    """The statistics of the ballots that count; shares are of the first method."""

    key: Key
    box: Box
    allowed_misses: int

    @cached_property
    def table(self) -> NDArray[np.float64]:
        """(participants, trials): 1 the first method was chosen, 0 the second, NaN not answered."""
        trials = self.key.of_kind("vote")
        rows = [votes_for(ballot, self.key) for ballot in self.box.kept]
        first = self.key.methods[0]
        return np.array([[float(row[t] == first) if t in row else np.nan for t in trials] for row in rows])

    @cached_property
    def counts(self) -> NDArray[np.float64]:
        """(trials, 2): votes for the first and for the second method."""
        return np.stack([(self.table == 1).sum(0), (self.table == 0).sum(0)], axis=1).astype(np.float64)

    @property
    def preference(self) -> Proportion:
        """Of all votes as if they were independent."""
        return proportion(int(self.counts[:, 0].sum()), int(self.counts.sum()))

    @property
    def by_participants(self) -> Interval | None:
        """Interval where participants are resampled with all their votes."""
        hits, answered = (self.table == 1).sum(1), (~np.isnan(self.table)).sum(1)
        return cluster_interval(hits, answered, np.random.default_rng([_SEED, 0]))

    @property
    def by_images(self) -> Interval | None:
        """Interval where images are resampled with all their votes."""
        seen = self.counts[self.counts.sum(1) > 0]
        return cluster_interval(seen[:, 0], seen.sum(1), np.random.default_rng([_SEED, 1]))

    @property
    def participants_test(self) -> Test:
        """Whether participants' own shares lie on one side of a half more than by chance."""
        return sign_flip_test(np.nanmean(self.table, axis=1) - 0.5, np.random.default_rng([_SEED, 2]))

    @property
    def kappa(self) -> float | None:
        """Fleiss' kappa; None where participants answered different trials, or all chose one method."""
        return fleiss_kappa(self.counts)

    @property
    def alpha(self) -> float | None:
        """Krippendorff's alpha, which allows for trials not answered."""
        return krippendorff_alpha(self.counts)

    @property
    def left(self) -> Proportion:
        """How often the left picture was chosen in the trials that count."""
        sides = [vote.side == "left" for ballot in self.box.kept for vote in _counting(ballot, self.key)]
        return proportion(sum(sides), len(sides))

    @property
    def images(self) -> list[tuple[str, int, int]]:
        """(file, votes for the first, votes for the second), the first method's best images first."""
        trials = self.key.of_kind("vote")
        rows = [
            (self.key.trials[trial].file, int(one), int(two))
            for trial, (one, two) in zip(trials, self.counts, strict=True)
        ]
        return sorted(rows, key=lambda row: (-row[1] / max(row[1] + row[2], 1), row[0]))


def report_of(scoring: Scoring) -> Report:
    """Tables of preference, images and participants, and the notes under them."""
    tables = [_preference(scoring), _images(scoring), _participants(scoring)]
    first, second = scoring.key.methods
    title = f"{first} against {second}: {scoring.key.question}"
    return Report(printable(title), tables, _notes(scoring), _data(scoring))


# --- tables


def _preference(scoring: Scoring) -> Table:
    votes, first = scoring.preference, scoring.key.methods[0]
    rows = [
        [f"share of votes for {first}", _percent(votes.share), f"{votes.successes} of {votes.total}"],
        ["  as if independent, Wilson", "", _ends(votes.wilson)],
        ["  as if independent, Clopper-Pearson", "", _ends(votes.clopper_pearson)],
        ["  participants resampled", "", _ends(scoring.by_participants)],
        ["  images resampled", "", _ends(scoring.by_images)],
        ["exact binomial test of a half", p_text(votes.p), "p, as if independent"],
        ["sign-flip test over participants", p_text(scoring.participants_test.p), "p"],
        ["Fleiss' kappa", _number(scoring.kappa), "1 full agreement, 0 chance"],
        ["Krippendorff's alpha", _number(scoring.alpha), "1 full agreement, 0 chance"],
        ["left picture chosen", _percent(scoring.left.share), _ends(scoring.left.wilson)],
    ]
    return Table("Preference", ["", "value", "95 % interval or remark"], _cells(rows), labels=1)


def _images(scoring: Scoring) -> Table:
    rows = [[name, str(one), str(two), _percent(_share(one, two))] for name, one, two in scoring.images]
    first, second = scoring.key.methods
    return Table("By image", ["image", first, second, f"share of {first}"], _cells(rows))


def _participants(scoring: Scoring) -> Table:
    rows = [
        [ballot.participant, str(int((~np.isnan(row)).sum())), _percent(float(np.nanmean(row))), seconds, str(misses)]
        for ballot, row in zip(scoring.box.kept, scoring.table, strict=True)
        for seconds, misses in [(f"{_median_seconds(ballot):.1f}", ballot.misses(scoring.key))]
    ]
    head = ["participant", "votes", f"share of {scoring.key.methods[0]}", "median s", "checks missed"]
    return Table("By participant", head, _cells(rows))


def _cells(rows: Sequence[Sequence[str]]) -> list[list[Cell]]:
    return [[Cell(text) for text in row] for row in rows]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _share(one: int, two: int) -> float | None:
    return one / (one + two) if one + two else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _ends(interval: Interval | None) -> str:
    return "-" if interval is None else f"[{100 * interval.low:.1f} %, {100 * interval.high:.1f} %]"


def _counting(ballot: Ballot, key: Key) -> list[Any]:
    return [vote for vote in ballot.votes if key.trials[vote.trial].kind == "vote"]


def _median_seconds(ballot: Ballot) -> float:
    return float(np.median([vote.ms for vote in ballot.votes])) / 1000


# --- notes and data


def _notes(scoring: Scoring) -> list[str]:
    box, key = scoring.box, scoring.key
    checks = len(key.of_kind("catch")) + len(key.of_kind("attention"))
    notes = [
        f"Participants who count: {len(box.kept)}. Left out: {len(box.failed)}, by the rule that at most "
        f"{scoring.allowed_misses} of {checks} checks may be wrong or not answered ({len(key.of_kind('catch'))} pairs "
        "with a broken picture; the others say which side to choose)."
    ]
    notes += [f"Left out: participant {name} missed {misses} checks." for name, misses in box.failed.items()]
    notes += [f"File not used: {path}: {reason}." for path, reason in box.rejected.items()]
    notes += [
        "Votes of a participant are not independent: Wilson, Clopper-Pearson and the binomial test take them as if "
        f"they were and are too sure; the other intervals resample whole participants, or images ({DRAWS:,} times).",
        "Kappa: Fleiss 1971; alpha: Krippendorff 2011, nominal, which allows for missing votes. Both are low where "
        "most prefer one method everywhere, even if they agree.",
    ]
    if scoring.kappa is None:
        notes.append(
            "Kappa is not defined: it needs two participants, one number of votes per image, and both choices."
        )
    if len(box.kept) == 1:
        notes.append("One participant is no evidence about others: there is no interval over participants.")
    return [printable(note) for note in notes]


def _data(scoring: Scoring) -> dict[str, Any]:
    votes, test = scoring.preference, scoring.participants_test
    return {
        "study": scoring.key.study,
        "question": scoring.key.question,
        "methods": list(scoring.key.methods),
        "participants": {
            "counted": [ballot.participant for ballot in scoring.box.kept],
            "failed": dict(scoring.box.failed),
            "allowed_misses": scoring.allowed_misses,
        },
        "files_not_used": dict(scoring.box.rejected),
        "votes": {"first": votes.successes, "total": votes.total, "share": votes.share},
        "intervals": {
            "wilson": list(votes.wilson),
            "clopper_pearson": list(votes.clopper_pearson),
            "participants": _listed(scoring.by_participants),
            "images": _listed(scoring.by_images),
        },
        "p": {"binomial": votes.p, "participants": test.p, "participants_exact": test.exact},
        "fleiss_kappa": scoring.kappa,
        "krippendorff_alpha": scoring.alpha,
        "left": {"share": scoring.left.share, "wilson": list(scoring.left.wilson), "p": scoring.left.p},
        "images": [{"file": name, "first": one, "second": two} for name, one, two in scoring.images],
        "notes": _notes(scoring),
    }


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
