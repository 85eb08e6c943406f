#!/usr/bin/env bash
# A visdom server for train.py's curves and pictures, reachable from this machine only.
#   bash scripts/visdom.sh                 then open http://localhost:8097
#   bash scripts/visdom.sh --port 9000     and train.py ... --display_port 9000
#   bash scripts/visdom.sh --fetch         only fetch visdom's front end, for a machine that has no internet
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=${PYTHON:-python3}
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m scripts.dashboard.serve "$@"
