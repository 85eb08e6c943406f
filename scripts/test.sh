#!/usr/bin/env bash
# Sets up and runs every check of the project: style, types, tests. Arguments go to pytest: scripts/test.sh -k resume
# The tests share the cores, four at most, each process on one of them; scripts/test.sh -n 0 runs them one by one.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh --dev
# The tests of pages need a browser, and those of the dashboard visdom's front end; without either they are skipped.
if [ -n "${CI:-}" ] && ! command -v chromium >/dev/null && command -v apt-get >/dev/null; then
  { timeout 120 apt-get update && timeout 600 apt-get install -y --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 ||
    echo "chromium cannot be installed here: the tests in a browser will be skipped"
fi
[ -z "${CI:-}" ] || timeout 300 bash scripts/visdom.sh --fetch || echo "the test of the dashboard will be skipped"
# Those of exports and of the local page need what is optional for users.
[ -z "${CI:-}" ] || timeout 900 .venv/bin/python -m pip install --quiet -c constraints.txt -r requirements-extras.txt ||
  echo "requirements-extras.txt cannot be installed here: the tests that need them will be skipped"
set -x
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy train.py test.py cam_infer.py models options data util scripts datasets/make_infrared.py tests
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
.venv/bin/python -m pytest -n auto --dist worksteal "$@"
