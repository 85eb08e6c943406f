"""Measure a trained run, or maps that were saved.

python scripts/evaluate.py --dataroot DIR --name RUN [--epochs 100,150,latest]
python scripts/evaluate.py --maps results/RUN/latest --dataroot DIR [--classifier RUN]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

from options.groups import Evaluation, MeasuredInference
from options.parse import RunOptions, extra, inference_options
from scripts.epochs import at_epoch, epochs_of
from scripts.evaluating.bench import Bench, chosen
from scripts.evaluating.earlier import basis, with_earlier
from scripts.evaluating.pictures import check_figures, draw
from scripts.evaluating.record import record, record_path, step_of, write_record
from scripts.evaluating.table import say_protocol, say_scores
from scripts.explaining.places import check_output
from scripts.faithfulness import of_folder
from util.engine.build import choose_device
from util.engine.measuring import measure
from util.errors import exit_code
from util.sharing import as_one, is_first


@as_one
def main() -> int:
    if any(word == "--maps" or word.startswith("--maps=") for word in sys.argv[1:]):
        if not is_first():
            return 0  # the others wait
        return of_folder.run(sys.argv[1:])
    run = inference_options((MeasuredInference, Evaluation), prog="evaluate.py")
    check_output(run)
    wanted = extra(run, Evaluation)
    chosen(wanted)  # an unknown name before any work
    check_figures(wanted)
    epochs = epochs_of(run, wanted.epochs)
    bench = Bench(run, choose_device(run.runtime.gpu_ids))
    if not is_first():
        bench.help_translating()
        return 0
    for epoch in epochs:
        evaluate(bench, at_epoch(run, epoch))
    bench.end_translating()
    say_protocol(run.folder, bench.inference.phase, epochs[-1])
    return 0


def evaluate(bench: Bench, run: RunOptions) -> Path:
    """Translate, measure, write and draw one epoch; returns the path of its JSON file."""
    epoch, phase = run.experiment.epoch, bench.inference.phase
    bench.clock.seconds.clear()
    translated = bench.translated(run)
    material = bench.material(run, translated)
    asked = chosen(bench.wanted)
    scores = measure(material, asked, bench.clock, required=bool(bench.wanted.metrics))
    content = record(
        run,
        phase=phase,
        epoch=epoch,
        step=step_of(run),
        sets={"source": material.source, "target": material.real},
        names=translated.names,
        feature_kind=material.feature_kind,
        scores=scores,
        seconds=bench.clock.seconds,
        basis=basis(run, bench, material),
        device=bench.device,
    )
    content = with_earlier(record_path(run.folder, phase, epoch), content, asked)
    features = material.features
    both = (features(material.fake)[0], features(material.real)[0]) if features and material.real else None
    path = write_record(run.folder, content, both)
    with bench.clock.stage("pictures"):
        report = draw(bench, material, translated, content, path.with_suffix(""))
    say_scores(run.experiment.name, epoch, scores, bench.clock.seconds)
    print(f"numbers: {path}; report: {report}")
    return path


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
