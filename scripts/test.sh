#!/usr/bin/env bash
# Sets up and runs every check of the project: style, types, tests. Arguments go to pytest: scripts/test.sh -k resume
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh --dev
set -x
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy train.py test.py cam_infer.py models options data util scripts datasets/make_infrared.py tests
.venv/bin/python -m pytest "$@"
