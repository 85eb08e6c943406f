"""What translations are worth as training data for the target domain."""

from __future__ import annotations

from util.metrics.base import METRICS, UNKNOWN, Material, Metric, MetricError, Scores
from util.metrics.judging import accuracy, predictions


@METRICS.register("transfer")
class Transfer(Metric):
    """Train on translated images, test on real ones (Ravuri & Vinyals, NeurIPS 2019; Esteban et al., 2017).

    `acc_train_fake`: accuracy on the target's real test images of a classifier trained on translations of the source's
    training images, with the source's labels. `acc_train_source` and `acc_train_real` are its bounds: the same
    classifier trained without translation, and on the target's own labelled images.
    """

    needs = ("real", "fake_train", "fit_judge")

    def compute(self, material: Material) -> Scores:
        real, fake = material.real, material.fake_train
        assert real is not None
        assert fake is not None
        if all(label == UNKNOWN for label in real.labels):
            raise MetricError("needs labels of the target's test images (labels.csv)")
        if len({label for label in fake.labels if label != UNKNOWN}) < 2:
            raise MetricError("needs labels of at least two classes on the source's training images")
        assert material.fit_judge is not None
        judges = {
            "acc_train_fake": material.fit_judge(fake, "translations"),
            "acc_train_source": material.judge_source,
            "acc_train_real": material.judge_real,
        }
        return Scores(
            {
                name: accuracy(predictions(judge, real), real.labels, judge.name)
                for name, judge in judges.items()
                if judge is not None
            }
        )
