#!/usr/bin/env bash
# Tries the lowest supported versions: installs them into a folder of its own and runs a selection of the tests there.
# Not part of scripts/test.sh: it downloads PyTorch a second time (about 6 GB on the disk) and takes a quarter of an hour.
#   bash scripts/floor.sh              in a temporary folder, which is removed at the end
#   bash scripts/floor.sh FOLDER       in FOLDER, which stays, so that a second call installs nothing
#   bash scripts/floor.sh FOLDER -k resume     other words go to pytest, in place of the selection
# PYTHON=/path/to/python3.10 chooses the interpreter; HIGHEST=1 takes the newest versions that fit instead.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
if [ $# -gt 0 ]; then place=$1; shift; else place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; fi
mkdir -p "$place"
free=$(df -Pk "$place" | awk 'NR == 2 { print int($4 / 1048576) }')
[ "$free" -ge 8 ] || { echo "floor.sh: $place has $free GB free, 8 are needed" >&2; exit 1; }

# a>=1.2 becomes a~=1.2.0: the last correction of the lowest version. Visdom is left out: training does without it.
lowest='/^visdom/d; /^#/d; s/^([A-Za-z0-9-]+)>=([0-9]+\.[0-9]+)$/\1~=\2.0/'
[ -z "${HIGHEST:-}" ] || lowest='/^visdom/d; /^#/d'
sed -E "$lowest" requirements.txt > "$place/requirements.txt"
echo "pytest>=8.2" >> "$place/requirements.txt"
[ -x "$place/venv/bin/python" ] || "$python" -m venv "$place/venv"
if ! cmp -s "$place/requirements.txt" "$place/installed"; then
  "$place/venv/bin/python" -m pip install --quiet --retries 10 -r "$place/requirements.txt"
  cp "$place/requirements.txt" "$place/installed"
fi
"$place/venv/bin/python" -c 'import cv2' || {
  echo "floor.sh: OpenCV needs libGL here; its headless build takes its place" >&2
  version=$("$place/venv/bin/python" -m pip show opencv-python | sed -n 's/^Version: //p')
  "$place/venv/bin/python" -m pip uninstall --quiet --yes opencv-python
  "$place/venv/bin/python" -m pip install --quiet "opencv-python-headless==$version"
}
"$place/venv/bin/python" --version
"$place/venv/bin/python" -m pip freeze | grep -iE '^(torch|torchvision|numpy|scipy|pillow|opencv.*|torchmetrics|scikit-learn|pyyaml|matplotlib)=='

selection=(
  tests/data/test_images.py tests/networks tests/losses tests/options tests/test_checkpoint.py
  tests/models/test_cutcam.py tests/engine/test_resume.py tests/test_entry_scripts.py
)
[ $# -eq 0 ] || selection=("$@")
OMP_NUM_THREADS=1 "$place/venv/bin/python" -m pytest -p no:cacheprovider "${selection[@]}"
