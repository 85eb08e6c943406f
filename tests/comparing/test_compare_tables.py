"""Tables in four formats, against ones typed by hand."""

from __future__ import annotations

import json

import pytest

from scripts.comparing.tables import Cell, Report, Table, decimals, p_text, render

HOSTILE = "a_1|b&[x]%\n"
SMALL = Report(
    "Title_1",
    [
        Table(
            "Table [1]",
            ["method", "fid ↓", "acc"],
            [
                [Cell(HOSTILE), Cell("-1.50", " ± 0.20 [-2.0, 1.0]", best=True), Cell("-")],
                [Cell("cut"), Cell("12.00"), Cell("0.5", best=True)],
            ],
        )
    ],
    ["n_1 is 5 % of #2"],
    {"a": 1},
)

TERMINAL = r"""
Title_1

Table [1]

method                            fid ↓   acc
---------------------------------------------
a_1|b&[x]%\n  -1.50 ± 0.20 [-2.0, 1.0]*    -
cut                              12.00   0.5*

- n_1 is 5 % of #2
"""

MARKDOWN = """\
### Title\\_1

Table \\[1\\]

| method | fid ↓ | acc |
| --- | ---: | ---: |
| a\\_1\\|b&\\[x\\]%\\\\n | **-1.50** ± 0.20 [-2.0, 1.0] | - |
| cut | 12.00 | **0.5** |

- n\\_1 is 5 % of \\#2
"""

LATEX = r"""% Title_1; needs \usepackage[T1]{fontenc} and \usepackage{booktabs}
% Table [1]
\begin{tabular}{lrr}
\toprule
method & fid $\downarrow$ & acc \\
\midrule
a\_1|b\&{[}x{]}\%\textbackslash{}n & \textbf{$-$1.50} $\pm$ 0.20 {[}$-$2.0, 1.0{]} & - \\
cut & 12.00 & \textbf{0.5} \\
\bottomrule
\end{tabular}

\par\footnotesize
\begin{itemize}
  \item n\_1 is 5 \% of \#2
\end{itemize}
"""


def test_tables_typed_by_hand() -> None:
    assert "\n" + render(SMALL, "terminal") == TERMINAL
    assert render(SMALL, "markdown") == MARKDOWN
    assert render(SMALL, "latex") == LATEX
    assert json.loads(render(SMALL, "json")) == {"a": 1}


def wide(rows: int, columns: int, name: str = "method") -> Report:
    head = ["method", *(f"metric_{n}" for n in range(columns))]
    body = [
        [Cell(f"{name}{n}"), *(Cell(f"{n}.{c}", " ± 0.10 [0.1, 0.9]") for c in range(columns))] for n in range(rows)
    ]
    return Report("t", [Table("t", head, body, turnable=True)], [], {})


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (2, 9), (9, 2), (8, 9)])
@pytest.mark.parametrize("name", ["m", "a_rather_long_name_of_a_method_with_all_its_options_in_it_" * 2])
def test_terminal_tables_fit_and_lose_nothing(rows: int, columns: int, name: str) -> None:
    text = render(wide(rows, columns, name), "terminal")
    assert max(map(len, text.splitlines())) <= 100
    for row in range(rows):
        for column in range(columns):
            assert f"{row}.{column} ± 0.10" in text


def test_a_table_that_fits_only_turned_is_turned() -> None:
    lines = render(wide(2, 9), "terminal").splitlines()
    assert lines[4].split() == ["method", "method0", "method1"]
    assert lines[6].split()[0] == "metric_0"


def test_digits_follow_the_uncertainty() -> None:
    assert decimals([None, 0.012, 1.5], [3.0]) == 3
    assert decimals([12.0], [300.0]) == 0
    assert decimals([None], [54.123]) == 2
    assert decimals([0.0], [0.0]) == 3
    assert [p_text(p) for p in (None, 0.04321, 0.00012, 3.14e-9, 1.0)] == ["-", "0.0432", "0.0001", "3.1e-09", "1.0000"]
