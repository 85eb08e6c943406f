#!/usr/bin/env bash
# From nothing to an explained translation: environment, example data, a short CUTCAM training, pictures, one page.
# Interrupted, it goes on where it was when started again. OUT=folder, DATA=folder, STEPS=number and FLAGS="--flag value"
# change where it writes, what it reads, how long it trains, and any option of the training.
set -euo pipefail
if [ $# -gt 0 ]; then  # nothing is installed for the sake of a question
  case $1 in -h | --help) status=0 ;; *) status=2; echo "error: $1: scripts/quickstart.sh takes no arguments" >&2 ;; esac
  sed -n '2,4s/^# //p' "$0" >&2
  echo 'usage: [OUT=folder] [DATA=folder] [STEPS=number] [FLAGS="--flag value"] bash scripts/quickstart.sh' >&2
  exit "$status"
fi
cd "$(dirname "$0")/.."
out=${OUT:-results/quickstart}
steps=${STEPS:-2200}
data=${DATA:-datasets/infrared_quickstart}
bash scripts/setup.sh
SECONDS=0  # downloads are not counted
python=.venv/bin/python

echo "== 1/5 example data: infrared scenes as a simulator renders them (A) and as a sensor measures them (B); about 15 s"
[ -f "$data/labels.csv" ] || "$python" datasets/make_infrared.py --out "$data" --size 128 --train 600 --test 36 --classes car,bus,tank

run=(--name quickstart --checkpoints_dir "$out/checkpoints" --dataroot "$data")
echo "== 2/5 training CUTCAM for $steps steps; about $(((steps + 239) / 240)) minutes on two cores"
continue=()
[ -f "$out/checkpoints/quickstart/latest_state.pt" ] && continue=(--continue_train)
"$python" train.py --model cutcam --lambda_CLS 1 "${run[@]}" ${continue[@]+"${continue[@]}"} \
  --input_nc 1 --output_nc 1 --num_classes 3 --ngf 16 --ndf 16 --load_size 76 --crop_size 72 --batch_size 4 --lr 0.0004 \
  --lambda_IDT 1 --cam_weight_adv --max_iters "$steps" --n_epochs 400 --n_epochs_decay 0 \
  --print_freq 200 --update_html_freq 800 --save_latest_freq 1600 --panel_freq 1 --display_id 0 --num_threads 2 ${FLAGS:-}

echo "== 3/5 translating the test split; under a minute"
"$python" test.py "${run[@]}" --results_dir "$out" --num_test 36
echo "== 4/5 what the generator looks at; under a minute"
"$python" cam_infer.py "${run[@]}" --results_dir "$out/cam_vis" --num_test 36
echo "== 5/5 one page of everything; a few seconds, loading PyTorch"
"$python" scripts/quickstart_page.py --run "$out/checkpoints/quickstart" --explained "$out/cam_vis/quickstart/latest" \
  --targets "$out/quickstart/test_latest/images/real_B" --out "$out/index.html"
echo "all that took $(((SECONDS + 30) / 60)) minutes"
