"""What the project costs, in operations, memory and time, against others' ways.

python scripts/benchmark.py step --size 128 --ngf 32
python scripts/benchmark.py choices --size 128 --ngf 32
python scripts/benchmark.py cam --arch resnet50 --batch 16
python scripts/benchmark.py crf
python scripts/benchmark.py data --kind jpg
python scripts/benchmark.py infer --batch 8 --amp bf16
python scripts/benchmark.py eval
python scripts/benchmark.py scale --ranks 2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

from scripts.benchmarks import cam, choices, crf, data, eval, infer, scale, step
from util.errors import exit_code

# A sub-command is a module with HELP, add_arguments(parser) and run(arguments) -> exit status.
COMMANDS = {
    "step": step,
    "choices": choices,
    "cam": cam,
    "crf": crf,
    "data": data,
    "infer": infer,
    "eval": eval,
    "scale": scale,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmark.py", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.HELP, description=command.HELP))
    wanted = parser.parse_args(argv)
    status: int = COMMANDS[wanted.command].run(wanted)
    return status


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
