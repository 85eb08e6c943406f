"""Tables with notes as terminal text, Markdown, LaTeX or JSON."""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from util.errors import printable
from util.files import write_atomic

WIDTH = 100  # columns of a terminal table, at most
_LONGEST = 28  # of a name in a terminal table; the notes hold it whole
_GAP = "  "


@dataclass(frozen=True)
class Cell:
    """Text of a cell: what may be bold, and what follows."""

    text: str
    rest: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under a head.

    Args:
        labels: how many columns from the left say what a row is; they are repeated where a table is split.
        turnable: rows and columns may change places to fit a terminal.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    labels: int = 1
    turnable: bool = False


@dataclass(frozen=True)
class Report:
    """Tables, what must be known to read them, and the same as plain data for JSON."""

    title: str
    tables: Sequence[Table]
    notes: Sequence[str]
    data: Mapping[str, Any]


def render(report: Report, form: str) -> str:
    """The report in one of FORMATS, ending with a line break."""
    return FORMATS[form](report)


def publish(text: str, output: Path | None) -> None:
    """Write the text to a file, or print it; what the terminal's encoding lacks is shown as a question mark."""
    if output:
        write_atomic(output, text.encode())
        print(f"written: {output}")
        return
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), end="")


# --- numbers


def decimals(uncertainties: Sequence[float | None], values: Sequence[float | None]) -> int:
    """Digits after the point: two significant ones of the smallest uncertainty, else four of the largest value."""
    known = [u for u in uncertainties if u and u > 0]
    size, digits = (min(known), 2) if known else (max((abs(v) for v in values if v), default=1.0), 4)
    return min(max(digits - 1 - math.floor(math.log10(size)), 0), 8)


def p_text(p: float | None) -> str:
    """A p-value as such: four digits after the point, or two significant ones below 0.0001."""
    return "-" if p is None else f"{p:.4f}" if p >= 1e-4 else f"{p:.1e}"


# --- terminal


def as_terminal(report: Report) -> str:
    """Aligned columns of at most WIDTH characters: turned, or split, where they do not fit."""
    parts = [report.title, ""]
    for table in report.tables:
        parts += [table.title, "", *_fitted(table), ""]
    parts += [textwrap.fill(f"- {note}", WIDTH, subsequent_indent="  ") for note in report.notes]
    return "\n".join(parts) + "\n"


def _fitted(table: Table) -> list[str]:
    whole = _Plain.of(table, str)
    short = _Plain.of(table, _short)
    for shown in (whole, short):
        for candidate in (shown, shown.turned()) if table.turnable else (shown,):
            if candidate.width <= WIDTH:
                return candidate.lines()
    lines: list[str] = []
    for part in short.split():
        lines += [*part.lines(), ""]
    return lines[:-1]


@dataclass(frozen=True)
class _Plain:
    """A table of plain texts, the head first."""

    texts: list[list[str]]
    labels: int

    @classmethod
    def of(cls, table: Table, named: Callable[[str], str]) -> _Plain:
        rows = [[named(printable(name)) for name in table.head]]
        for row in table.rows:
            labels = [named(printable(cell.text)) for cell in row[: table.labels]]
            rows.append(labels + [_plain_number(cell) for cell in row[table.labels :]])
        return cls(rows, table.labels)

    @property
    def widths(self) -> list[int]:
        return [max(map(len, column)) for column in zip(*self.texts, strict=True)]

    @property
    def width(self) -> int:
        return sum(self.widths) + len(_GAP) * (len(self.widths) - 1)

    def lines(self) -> list[str]:
        rows = [_GAP.join(self._padded(row)).rstrip() for row in self.texts]
        return [rows[0], "-" * self.width, *rows[1:]]

    def turned(self) -> _Plain:
        return _Plain([list(column) for column in zip(*self.texts, strict=True)], 1)

    def split(self) -> list[_Plain]:
        """As many columns at a time as fit, and one where a single one does not."""
        parts: list[list[int]] = []
        labels, room = list(range(self.labels)), 0
        for number in range(self.labels, len(self.widths)):
            needed = self.widths[number] + len(_GAP)
            if not parts or needed > room:
                parts.append(labels.copy())
                room = WIDTH - sum(self.widths[: self.labels]) - len(_GAP) * (self.labels - 1)
            parts[-1].append(number)
            room -= needed
        return [_Plain([[row[n] for n in part] for row in self.texts], self.labels) for part in parts]

    def _padded(self, row: Sequence[str]) -> list[str]:
        pairs = list(zip(row, self.widths, strict=True))
        left = [text.ljust(width) for text, width in pairs[: self.labels]]
        return left + [text.rjust(width) for text, width in pairs[self.labels :]]


def _plain_number(cell: Cell) -> str:
    return printable(cell.text) + cell.rest + ("*" if cell.best else " ")


def _short(name: str) -> str:
    """A long name without its middle: runs differ at their ends."""
    half = (_LONGEST - 2) // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}..{name[-half:]}"


# --- Markdown and LaTeX


def as_markdown(report: Report) -> str:
    """GitHub's tables; the best value of a column is bold."""
    parts = [f"### {_markdown(report.title)}", ""]
    for table in report.tables:
        rule = ["---"] * table.labels + ["---:"] * (len(table.head) - table.labels)
        rows = [[_markdown(name) for name in table.head], rule]
        rows += [
            [f"**{_markdown(c.text)}**{c.rest}" if c.best else _markdown(c.text) + c.rest for c in row]
            for row in table.rows
        ]
        parts += [_markdown(table.title), "", *(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join([*parts, *(f"- {_markdown(note)}" for note in report.notes)]) + "\n"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", printable(text))


_LATEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "[": "{[}",  # after the end of a row a bracket would be its argument
    "]": "{]}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
}


def as_latex(report: Report) -> str:
    """Tabulars for the package booktabs, the notes below them; text is escaped."""
    parts = [f"% {printable(report.title)}; needs \\usepackage[T1]{{fontenc}} and \\usepackage{{booktabs}}"]
    for table in report.tables:
        head = " & ".join(_latex(name) for name in table.head)
        columns = "l" * table.labels + "r" * (len(table.head) - table.labels)
        parts += [
            f"% {printable(table.title)}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            rf"{head} \\",
            r"\midrule",
        ]
        parts += [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows]
        parts += [r"\bottomrule", r"\end{tabular}", ""]
    parts += [r"\par\footnotesize", r"\begin{itemize}"]
    parts += [rf"  \item {_latex(note)}" for note in report.notes]
    return "\n".join([*parts, r"\end{itemize}"]) + "\n"


def _latex(text: str) -> str:
    return re.sub(r"(?<![\w-])-(?=\d)", r"$-$", "".join(_LATEX.get(c, c) for c in printable(text)))


def _latex_cell(cell: Cell) -> str:
    text = _latex(cell.text)
    return (rf"\textbf{{{text}}}" if cell.best else text) + _latex(cell.rest)


def as_json(report: Report) -> str:
    """The report's data; strict JSON, without NaN."""
    return json.dumps(report.data, indent=1, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Report], str]] = {
    "terminal": as_terminal,
    "markdown": as_markdown,
    "latex": as_latex,
    "json": as_json,
}
