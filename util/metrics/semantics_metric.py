"""Whether the class survives the translation, by classifiers that have seen real images only."""

from __future__ import annotations

import math

from util.metrics.base import METRICS, UNKNOWN, Judge, Material, Metric, MetricError, Scores, Value
from util.metrics.judging import accuracy, confusion, predictions


@METRICS.register("semantics")
class Semantics(Metric):
    """Accuracy on translations, and how often a class turns into another one.

    `acc_fake_real_judge`: of translations, by a judge trained on real images of the target, where these have labels;
    `acc_fake_source_judge`: by one trained on real inputs. Beside them the judges' own accuracies on real test images
    of both domains, without which they mean little. `flip_rate`: share of labelled inputs whose class the judge (the
    target's, if there is one) does not see in the translation; the table `flips` has it class by class, and
    `class_kept` image by image.
    """

    def compute(self, material: Material) -> Scores:
        judges = {"source_judge": material.judge_source, "real_judge": material.judge_real}
        if not any(judges.values()):
            raise MetricError(
                "needs labels of the training images (labels.csv, --labels_A) for an independent classifier"
            )
        values: dict[str, Value] = {}
        for name, judge in judges.items():
            if judge is not None:
                values |= _accuracies(name, judge, material)
        scores = Scores(values)
        if any(label != UNKNOWN for label in material.source.labels):
            scores = scores.and_also(_flips(material))
        return scores


def _accuracies(name: str, judge: Judge, material: Material) -> dict[str, Value]:
    sets = {"source": material.source, "fake": material.fake, "real": material.real}
    return {
        f"acc_{side}_{name}": accuracy(predictions(judge, images), images.labels, judge.name)
        for side, images in sets.items()
        if images is not None
    }


def _flips(material: Material) -> Scores:
    """Class of the input against the class seen in the translation."""
    judge = material.judge_real or material.judge_source
    assert judge is not None
    seen = predictions(judge, material.fake)
    labels = material.source.labels
    right: list[float | None] = [
        None if label == UNKNOWN else float(label == guess) for label, guess in zip(labels, seen.tolist(), strict=True)
    ]
    known = [value for value in right if value is not None]
    rate = 1 - sum(known) / len(known)
    note = f"of {len(known)} labelled inputs"
    if not math.isnan(judge.accuracy):  # none was held out
        note += f"; the judge itself errs on {1 - judge.accuracy:.0%} of held-out real images"
    value = Value(rate, (rate * (1 - rate) / len(known)) ** 0.5, judge.name, note, "lower")
    table = confusion(labels, seen, material.class_names)
    tables = {"flips": table | {"judge": judge.name}}
    return Scores({"flip_rate": value}, {"class_kept": right}, tables, {"class_kept": "higher"})
