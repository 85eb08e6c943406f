"""The tables of options in docs/options.md, made from the options themselves.

python scripts/options_table.py --write    renew the tables between the markers in docs/options.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, Python looks beside it only

from data import DATASETS
from models import MODELS
from models.terms import TERMS
from options import groups
from options.schema import Group, describe_range, fields_of, show, spec_of
from util.errors import UserError, exit_code
from util.files import write_atomic

BEGIN, END = "<!-- options: begin -->", "<!-- options: end -->"
PAGE = "docs/options.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write them into {PAGE} instead of printing them")
    if not parser.parse_args().write:
        print(tables())
        return 0
    page = ROOT / PAGE
    write_atomic(page, renewed(page.read_text(encoding="utf-8")).encode())
    return 0


def renewed(text: str) -> str:
    """The text with the tables between its markers made again.

    Raises:
        UserError: a marker is missing.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(f"{PAGE}: needs the lines {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.split(END)[1]}"


def tables() -> str:
    """One folded table for each group of options."""
    kinds: list[tuple[str, type[Group]]] = [("every script", kind) for kind in groups.COMMON]
    kinds += [(f"--model {name}", MODELS.get(name).Options) for name in MODELS.names()]
    kinds += [(f"--extra_losses {name}", TERMS.get(name).Options) for name in TERMS.names()]
    kinds += [("--dataset_mode unaligned and single", DATASETS.get("unaligned").Options)]
    kinds += [("--dataset_mode classes", DATASETS.get("classes").Options)]
    kinds += [("test.py, cam_infer.py", groups.Inference), ("cam_infer.py", groups.Explanation)]
    kinds += [("test.py, cam_infer.py", groups.Given)]
    return "\n\n".join(table(where, kind) for where, kind in kinds)


def table(where: str, kind: type[Group]) -> str:
    """A folded table: flag, default, what it does."""
    title = (kind.__doc__ or "").strip().splitlines()[0]
    lines = [f"<details><summary>{title} ({where})</summary>", "", "| flag | default | what it does |", "|---|---|---|"]
    for name, (_, item) in fields_of(kind).items():
        spec = spec_of(item)
        notes = [", ".join(spec.choices)] if spec.choices else []
        notes += [describe_range(spec)] if spec.low is not None or spec.high is not None else []
        text = spec.help.replace("%%", "%") + (f" ({'; '.join(notes)})" if notes else "")
        lines.append(f"| `--{name}` | `{show(item.default)}` | {text.replace('|', '&#124;')} |")
    return "\n".join([*lines, "", "</details>"])


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
