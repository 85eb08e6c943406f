"""Everything an evaluation of a run measures by: made once, used for each of its epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from data.base import UNKNOWN, DataError
from data.pairing import place_of
from data.single_dataset import SingleDataset
from models import load_trained
from models.base import Model
from models.builders import initialised
from models.judge import TrainedJudge
from options.groups import Evaluation, Inference
from options.parse import RunOptions, extra
from options.schema import OptionError
from scripts.epochs import at_epoch
from scripts.evaluating.annotated import boxes_of, pairs_of, segmenter_from
from scripts.evaluating.images import Translated, target_set, translate_split
from scripts.evaluating.judges import Judges, judge_of_run, size_for
from util.engine.build import pace, writing_threads
from util.engine.inference import together
from util.engine.measuring import Clock
from util.metrics import METRICS
from util.metrics.base import ImageSet, Material, MetricError
from util.metrics.features import Extractor, JudgeExtractor, cached_features
from util.metrics.inception import InceptionExtractor
from util.sharing import from_first
from util.visual.results import Results

PATTERN = "images/{kind}/{stem}"  # of test.py: the translations of an evaluation are found where its own are
OF_FEATURES = ("fid", "kid", "isc", "precision_recall", "density_coverage")
CACHE = "features"  # below the run's evaluations


@dataclass
class Bench:
    """What does not change from epoch to epoch.

    Args:
        run: options of the run, with those of inference and evaluation.
        device: of the networks.
    """

    run: RunOptions
    device: torch.device
    clock: Clock = field(default_factory=Clock)

    @property
    def wanted(self) -> Evaluation:
        return extra(self.run, Evaluation)

    @property
    def inference(self) -> Inference:
        return extra(self.run, Inference)

    @cached_property
    def split(self) -> SingleDataset:
        """The inputs, with labels where there are any."""
        wanted = self.inference
        return SingleDataset.for_phase(self.run, wanted.phase, wanted.num_test or math.inf, 4, spread=True)

    @cached_property
    def train_split(self) -> SingleDataset | None:
        """The inputs of the training; None where the data have no folder of them, which few metrics need."""
        try:
            place_of(Path(self.run.data.dataroot), "train", self.run.data.direction[0], self.run.data.dataset_mode)
        except DataError:
            return None
        return SingleDataset.for_phase(self.run, "train", self.run.data.max_dataset_size, 4)

    @cached_property
    def real(self) -> ImageSet | None:
        """All of them, however few inputs are translated: more is known of the target, and every pair is there."""
        return target_set(self.run, self.inference.phase, self.split.target, math.inf)

    @cached_property
    def train_real(self) -> ImageSet | None:
        return target_set(self.run, "train", self.split.target, self.run.data.max_dataset_size)

    @cached_property
    def train_source(self) -> ImageSet | None:
        """The source images of the training split, labelled where they are; None without that split."""
        data = self.train_split
        if data is None:
            return None
        return ImageSet(data.folder.name, data.source_files, lambda n: data.whole(n).image, data.labels)

    @cached_property
    def class_names(self) -> dict[int, str]:
        return {**(self.train_split.class_names if self.train_split else {}), **self.split.class_names}

    # -- judges -----------------------------------------------------------------------------------------------

    @cached_property
    def judges(self) -> Judges:
        sets = [images for images in (self.train_source, self.train_real) if images is not None]
        most = max((label for images in sets for label in images.labels), default=UNKNOWN)
        return Judges(self.run, most + 1, self.class_names, self.device, size_for(self.run, sets))

    @cached_property
    def judge_source(self) -> TrainedJudge | None:
        with self.clock.stage("classifier of the source"):
            return self.judges.fit_where_labelled(self.train_source)

    @cached_property
    def judge_real(self) -> TrainedJudge | None:
        with self.clock.stage("classifier of the target"):
            return self.judges.fit_where_labelled(self.train_real)

    # -- features ---------------------------------------------------------------------------------------------

    @cached_property
    def extractor(self) -> Extractor | None:
        """The feature network; None where `auto` finds none.

        Raises:
            MetricError: the one that was asked for cannot be had.
        """
        wanted = self.wanted
        if wanted.features != "classifier":
            try:
                return InceptionExtractor(
                    Path(wanted.inception_weights) if wanted.inception_weights else None, self.device
                )
            except MetricError:
                if wanted.features == "inception" or wanted.inception_weights:
                    raise
        judge = judge_of_run(self.run, wanted, self.device) or self.judge_real or self.judge_source
        if judge is None:
            if wanted.features == "auto":
                return None
            raise OptionError(
                "--features classifier: the training images have no labels to train one by; give labels.csv, a run of "
                "--model classifier by --classifier, or --features inception"
            )
        return JudgeExtractor(judge.name, judge.digest, judge.both)

    @cached_property
    def features(self) -> Callable[[ImageSet], Any] | None:
        if self.extractor is None:
            return None
        return cached_features(self.extractor, self.run.folder / "evaluations" / CACHE, progress=not self.run.log.quiet)

    # -- an epoch ---------------------------------------------------------------------------------------------

    def translated(self, run: RunOptions) -> Translated:
        """The split, translated by one epoch's weights.

        The processes that torchrun starts share the images; those but the first come here by `help_translating`.
        """
        from_first((run.experiment.epoch, False))
        return self._translated_split(run)

    def help_translating(self) -> None:
        """What the other processes do: their shares of what the first one translates, until it is done."""
        while (job := self._next_job()) is not None:
            epoch, training = job
            run = at_epoch(self.run, epoch)
            if training:
                self._translated_training_split(run)
            else:
                self._translated_split(run)

    def _next_job(self) -> tuple[str, bool] | None:
        return from_first(None)

    def end_translating(self) -> None:
        """Let the other processes go."""
        from_first(None)

    def _translated_split(self, run: RunOptions) -> Translated:
        model = load_trained(run, self.device, evaluate=self.inference.eval, tile=self.inference.tile)
        results = self._results(run, self.inference.phase, self.split.names)
        with self.clock.stage("translate"):
            return self._translate(run, model, self.split, results, randomised(run, self.device))

    def material(self, run: RunOptions, translated: Translated) -> Material:
        """All there is to measure this epoch by; only what the metrics asked for is made."""
        wanted, names = self.wanted, set(chosen(self.wanted))

        def asked(*metrics: str) -> bool:
            return bool(names & set(metrics))

        with_judges = asked("semantics", "transfer")
        with_features = asked(*OF_FEATURES)
        source = translated.source
        return Material(
            source=source,
            fake=translated.images,
            real=self.real,
            train_source=self.train_source if with_judges else None,
            train_real=self.train_real if with_judges else None,
            fake_train=self._translated_training(run) if asked("transfer") and self.judge_source else None,
            pairs=pairs_of(run, wanted, self.inference.phase, source, self.real),
            features=self.features if with_features else None,
            feature_kind=self.extractor.name if with_features and self.extractor else "",
            judge_source=self.judge_source if with_judges else None,
            judge_real=self.judge_real if with_judges else None,
            fit_judge=self.judges.fit if with_judges and self.judge_source else None,
            segmenter=segmenter_from(wanted),
            maps=translated.maps,
            boxes=boxes_of(run, wanted, self.inference.phase, source),
            class_names=self.class_names,
            lpips_weights=Path(wanted.lpips_weights) if wanted.lpips_weights else None,
            seed=run.experiment.seed,
        )

    def _translated_training(self, run: RunOptions) -> ImageSet:
        from_first((run.experiment.epoch, True))
        return self._translated_training_split(run)

    def _translated_training_split(self, run: RunOptions) -> ImageSet:
        assert self.train_split is not None  # a judge has learnt from its labels
        model = load_trained(run, self.device, evaluate=self.inference.eval, tile=self.inference.tile)
        with self.clock.stage("translate training images"):
            results = self._results(run, "train", self.train_split.names)
            return self._translate(run, model, self.train_split, results, None).images

    def _translate(
        self, run: RunOptions, model: Model[Any], data: SingleDataset, results: Results, random: Model[Any] | None
    ) -> Translated:
        name = f"translations of {data.folder.name}"
        speed = pace(run, model, self.inference.tile)
        if random is not None:
            speed = replace(speed, together=together(random, speed.together, self.inference.tile))
        return translate_split(model, random, data, results, name, speed, run)

    def _results(self, run: RunOptions, phase: str, files: Sequence[Path]) -> Results:
        folder = Path(self.inference.results_dir) / run.experiment.name / f"{phase}_{run.experiment.epoch}"
        return Results(folder, PATTERN, threads=writing_threads(), files=files)


def chosen(wanted: Evaluation) -> tuple[str, ...]:
    """The metrics to be computed.

    Raises:
        UnknownNameError: there is no metric of a name.
    """
    for name in (*wanted.metrics, *wanted.skip_metrics):
        METRICS.get(name)
    return tuple(name for name in wanted.metrics or METRICS.names() if name not in wanted.skip_metrics)


def randomised(run: RunOptions, device: torch.device) -> Model[Any] | None:
    """The run's model with fresh random weights in its class head; None where it has none."""
    model = load_trained(run, device)
    if "C" not in model.nets:
        return None
    initialised(model.nets["C"], run, "randomised head", init_type="kaiming")
    model.nets["C"].to(device)
    return model
