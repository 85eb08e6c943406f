"""The long versions of the tests of faults: training killed and its disk filled, and damaged files for every reader.

python scripts/torture.py
python scripts/torture.py --only kills --kills 20 --seed 7
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

from scripts.faults.full_disk import full_disk_run
from scripts.faults.fuzz import fuzz_images, fuzz_readers
from scripts.faults.kills import PromiseBroken, kill_run
from util.errors import exit_code


def torture_kills(wanted: argparse.Namespace) -> int:
    """Kill runs, and fill their disk; returns the number of broken promises (it ends at the first)."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        try:
            print(kill_run(wanted.kills, wanted.seed, Path(folder) / "kills"), flush=True)
            print(full_disk_run(max(1, wanted.kills // 10), wanted.seed, Path(folder) / "disk"), flush=True)
        except PromiseBroken as broken:
            print(f"broken: {broken}", file=sys.stderr)
            return 1
    return 0


def torture_fuzz(wanted: argparse.Namespace) -> int:
    """Feed damaged files to every reader; returns the number of violations."""
    violations = 0
    for report in (fuzz_images(wanted.images, wanted.seed), *fuzz_readers(wanted.readers, wanted.seed)):
        print(report, flush=True)
        violations += len(report.violations)
    return violations


PARTS: dict[str, Callable[[argparse.Namespace], int]] = {"kills": torture_kills, "fuzz": torture_fuzz}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="torture.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs, half of them at chosen moments")
    parser.add_argument("--images", type=int, default=20_000, help="damaged image files")
    parser.add_argument("--readers", type=int, default=5_000, help="damaged files of all other kinds")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of the damage")
    parser.add_argument("--only", choices=sorted(PARTS), help="one part")
    wanted = parser.parse_args(argv)
    faults = 0
    for name, part in PARTS.items():
        if wanted.only in (None, name):
            started = time.monotonic()
            found = part(wanted)
            faults += found
            print(f"{name}: {found} faults in {time.monotonic() - started:.0f} s", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
