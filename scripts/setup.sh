#!/usr/bin/env bash
# Makes .venv and installs what the project needs; run again, it only installs what changed.
#   bash scripts/setup.sh         what training, translating and explaining need
#   bash scripts/setup.sh --dev   and what the tests need
# PYTHON=/path/to/python3.12 chooses the interpreter. For a CPU-only or another CUDA build of PyTorch: make .venv,
# install torch AND torchvision in it as PyTorch's own page says, then run this script: it keeps them.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" - <<'PY' || exit 1
import sys
if sys.version_info < (3, 10):
    sys.exit(f"Python 3.10 or newer is needed, {sys.executable} is {sys.version.split()[0]}; set PYTHON=/path/to/a/newer/one")
PY
[ -x .venv/bin/python ] || "$python" -m venv .venv

files=(-r requirements.txt)
# visdom 0.2.4, the last one for Python below 3.12, is not in requirements.txt: a plain install could not build it.
.venv/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))' && files+=("visdom>=0.2.4")
stamp=.venv/installed
if [ "${1:-}" = "--dev" ]; then files+=(-r requirements-dev.txt); stamp=.venv/installed-dev; fi

wanted=$(cat requirements*.txt constraints.txt scripts/setup.sh)
digest=$(.venv/bin/python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())' <<< "$wanted")
if ! grep -qxF -- "$digest" "$stamp" .venv/installed-dev 2>/dev/null; then
  # Older pips hand PIP_CONSTRAINT on to package builds, newer ones PIP_BUILD_CONSTRAINT.
  PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
    .venv/bin/python -m pip install --quiet --retries 10 "${files[@]}"
  complaint=$(mktemp)
  trap 'rm -f "$complaint"' EXIT
  if ! .venv/bin/python -c 'import cv2' 2>"$complaint"; then
    if grep -q 'libGL\|libgthread\|libglib' "$complaint"; then
      echo "opencv-python needs libGL, which this machine lacks: opencv-python-headless takes its place"
      .venv/bin/python -m pip uninstall --quiet --yes opencv-python
      .venv/bin/python -m pip install --quiet opencv-python-headless
      .venv/bin/python -c 'import cv2'
    else
      cat "$complaint" >&2
      exit 1
    fi
  fi
  echo "$digest" > "$stamp"
fi
.venv/bin/python - <<'PY'
import cv2, numpy, sys, torch, torchvision
where = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
      f"numpy {numpy.__version__}, OpenCV {cv2.__version__}; {where}")
PY
