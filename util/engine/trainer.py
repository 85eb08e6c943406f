"""The training loop, for every model: epochs, logs, pictures, checkpoints, and continuing from them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm

from util import checkpoint, ranks
from util.engine.bad_images import BadImages
from util.engine.disk import Disk
from util.engine.early_stopping import BEST, EarlyStopping
from util.engine.ema import WeightAverage
from util.engine.faults import NonFiniteLossError, NonFinitePolicy, check_weights
from util.engine.late import LateCheck
from util.engine.run_state import Position, collect, restore
from util.engine.schedule import end_epoch
from util.engine.signals import StopRequest
from util.engine.step import Precision, StepResult, train_step
from util.files import remove_leftovers, write_atomic
from util.seeding import StepInfo
from util.visual.base import Moment, Sinks, say
from util.visual.progress import with_bar

# Measures the exported weights of an epoch; it is asked often enough whether it must leave off. The first rank has one.
Evaluate = Callable[[int, Callable[[], bool]], Mapping[str, float]]

if TYPE_CHECKING:
    from data.base import Batch, Dataset
    from data.sampler import GlobalBatchSampler
    from models.base import Model
    from util.visual.panel import PanelWriter


@dataclass(frozen=True)
class Frequencies:
    """How often things happen: in images seen unless the name says steps or epochs; 0 means never."""

    print: int = 100
    display: int = 400
    html: int = 1000
    save_latest: int = 5000
    save_epochs: int = 5
    panel_epochs: int = 5
    monitor_steps: int = 500
    save_by_iter: bool = False
    eval_epochs: int = 0


@dataclass(frozen=True)
class Outputs:
    """Where a run writes. `sinks` get numbers and display pictures, `pages` the rarer pictures of the HTML page."""

    folder: Path
    sinks: Sinks
    pages: Sinks
    panel: PanelWriter | None = None
    quiet: bool = False


class Trainer:
    """Trains a model from where it stands to the last epoch.

    Args:
        model: on `device`.
        loader: batches of this rank; its batch sampler is `sampler`.
        optimizers, schedulers: one for each network, by the network's name.
        epochs: number of the first and of the last epoch.
        max_iters: stop after this many steps of the whole run; 0: no limit.
        seed: keys every random draw.
        skip_nonfinite: go on after a loss that is not finite, without that step.
        evaluate: measures an epoch's weights, every `frequencies.eval_epochs`.
        accumulate: parts that the loader's batches go through in.
        late: looks for what is not finite a step later, without waiting; never with skip_nonfinite.
        ema_decay: of the averages that are exported in place of the weights; 0: none.
    """

    def __init__(
        self,
        model: Model[Any],
        loader: DataLoader[Any],
        sampler: GlobalBatchSampler,
        optimizers: Mapping[str, Optimizer],
        schedulers: Mapping[str, LRScheduler],
        precision: Precision,
        outputs: Outputs,
        frequencies: Frequencies,
        *,
        epochs: tuple[int, int],
        max_iters: int = 0,
        seed: int = 0,
        skip_nonfinite: bool = False,
        evaluate: Evaluate | None = None,
        ema_decay: float = 0.0,
        accumulate: int = 1,
        late: LateCheck | None = None,
    ) -> None:
        self.model, self.loader, self.sampler = model, loader, sampler
        self.optimizers, self.schedulers, self.precision = optimizers, schedulers, precision
        self.outputs, self.frequencies = outputs, frequencies
        self.first_epoch, self.last_epoch = epochs
        self.max_iters, self.seed = max_iters, seed
        self.evaluate, self.accumulate = evaluate, accumulate
        self.average = WeightAverage({name: model.nets[name] for name in model.averaged_nets}, ema_decay)
        self.nonfinite = NonFinitePolicy(skip_nonfinite, outputs.folder)
        self.bad_images = BadImages(loader.dataset, outputs.folder)
        self.position = Position(epoch=self.first_epoch)
        self.disk = Disk(say)
        self.early_stopping = EarlyStopping(model.patience, model.best_by, model.keeps_best)
        self.early_stopping.check(loader.dataset.validation)  # type: ignore[attr-defined]
        self._panel_at = (-1, -1)  # epoch and step of the newest panel
        # Of the last phase over this epoch, for --lr_policy plateau. On a GPU it stays there until somebody asks.
        self._losses: float | Tensor
        self.loss_sum, self.loss_steps = 0.0, 0  # of the epoch's steps, but for those skipped
        self._late = late

    @property
    def loss_sum(self) -> float:
        return float(self._losses)

    @loss_sum.setter
    def loss_sum(self, value: float) -> None:
        on_gpu = self.model.device.type == "cuda"
        self._losses = torch.tensor(value, dtype=torch.float64, device=self.model.device) if on_gpu else value

    # -- the loop ---------------------------------------------------------------------------------------------

    def fit(self, stop: StopRequest | None = None) -> bool:
        """Train to the end; True if it was reached, False if `stop` asked to leave earlier (state is saved)."""
        stop = stop or StopRequest()
        self.model.train()
        if self.position.step == 0:
            self.average.restart()  # the first weights may have been loaded since
        if ranks.is_first():
            remove_leftovers(self.outputs.folder)
        if self.position.step == 0:
            # From here on the folder is this run's, and a kill in the first step loses nothing.
            self.save("latest", must=True)
        self.disk.saved = self.position.step
        with self.disk.sparing():
            self.bad_images.write()
        with self._bar() as bar:
            while self.position.epoch <= self.last_epoch and not self._done():
                if not self._run_epoch(bar, stop):
                    self.save("latest", must=True)
                    return False
        inside = self.position.step_in_epoch > 0  # max_iters ended the run inside an epoch
        if inside:
            self._validate(self._moment(0.0, 0.0), whole=False)
        # The state first: who makes the run longer goes on from its last weights, as if it had never ended.
        self.save("latest", must=True)
        self._take_best()
        self._write_panel(self.position.epoch if inside else self.position.epoch - 1)
        return True

    def _done(self) -> bool:
        return (bool(self.max_iters) and self.position.step >= self.max_iters) or self.early_stopping.over

    def _take_best(self) -> None:
        """The best weights become the run's, where early stopping has kept them."""
        if not self.early_stopping.restore(self.model):
            return
        self.average.restart()  # what was kept are the averages of the best epoch
        self._say(self.early_stopping.describe())
        with self.disk.sparing(must=True):
            if ranks.is_first():
                for label in (BEST, "latest"):
                    self._write_weights(label)
        ranks.barrier()

    def _run_epoch(self, bar: tqdm[Any], stop: StopRequest) -> bool:
        started, epoch, first_step = time.monotonic(), self.position.epoch, self.position.step_in_epoch
        if first_step == 0:
            with self.average.applied():  # pseudo-labels are given by the weights that will be exported
                self.model.begin_epoch(self._info(), self._read_source)
            self._tell()
        self.sampler.set_epoch(epoch, first_step)
        for batch, waited in self._batches():
            self.bad_images.note(batch)
            self._run_step(batch, waited)
            bar.update()
            if self._done() and self.position.step_in_epoch < len(self.sampler):
                return True  # else the epoch is whole, and what is due after one is
            if not self._done() and stop.agreed():
                return False
        return self._end_epoch(time.monotonic() - started, stop)

    def _run_step(self, batch: Batch, waited: float) -> None:
        started, before = time.monotonic(), self.position
        result = self._train_on(batch.to(self.model.device))
        images = len(batch.path_A) * ranks.world_size()
        self.position = replace(
            before,
            step_in_epoch=before.step_in_epoch + 1,
            step=before.step + 1,
            total_iters=before.total_iters + images,
        )
        self._after_step(before, result, (time.monotonic() - started) / images, waited)

    def _train_on(self, batch: Batch) -> StepResult | None:
        """One step; None where it is skipped because its loss is not finite."""
        at = self.position
        watch = _crossed(at.step, at.step + 1, self.frequencies.monitor_steps)
        try:
            with self.nonfinite.protecting(self.model.nets):
                result = train_step(
                    self.model, batch, self._info(), self.optimizers, self.precision, watch, self.accumulate, self._late
                )
        except NonFiniteLossError as fault:
            self.model.messages.append(self.nonfinite.caught(fault, batch, at.epoch, at.step + 1))
            return None
        self.nonfinite.passed()
        self.average.update()
        last_phase = self.model.phases[-1].name
        if last_phase in result.scalars:
            loss, self.loss_steps = result.scalars[last_phase], self.loss_steps + 1
            self._losses = self._losses + (loss.double() if isinstance(self._losses, Tensor) else float(loss))
        if self._late is not None:
            self._late.note(batch, at.epoch, at.step + 1, result.scalars)
            self._settle(leave=1)
        return result

    def _settle(self, leave: int = 0) -> None:
        """Raise a NonFiniteLossError where a step before the newest `leave` met a number that is not finite."""
        verdict = self._late.overdue(leave) if self._late is not None else None
        if verdict is not None and (fault := verdict.fault()):
            self.nonfinite.caught(fault, verdict.batch, verdict.epoch, verdict.step)

    def _after_step(self, before: Position, result: StepResult | None, seconds: float, waited: float) -> None:
        seen, now, freq = before.total_iters, self.position.total_iters, self.frequencies
        self._say_bad_images()
        self._tell()
        if result is not None:
            self._show(self._moment(seconds, waited), seen, now, result)
        if _crossed(seen, now, freq.save_latest):
            if freq.save_by_iter:
                self.export(f"iter_{now}")  # before the state: a kill between them makes both again
            self.save("latest")

    def _show(self, moment: Moment, seen: int, now: int, result: StepResult) -> None:
        freq = self.frequencies
        last = moment.step == self._total_steps()  # of a short run it may be all that a log and a page show
        if last or _crossed(seen, now, freq.print) or any(name.startswith("grad_") for name in result.scalars):
            self._log(moment, result)
        for every, sinks in ((freq.display, self.outputs.sinks), (freq.html, self.outputs.pages)):
            if sinks.active and _crossed(seen, now, every):
                with torch.no_grad():
                    sinks.images(moment, self.model.visuals(result.state))

    def _end_epoch(self, seconds: float, stop: StopRequest) -> bool:
        """What is due after an epoch; False where `stop` asked to leave during its evaluation."""
        done, moment = self.position, self._moment(0.0, 0.0)
        mean = torch.tensor(self.loss_sum / max(1, self.loss_steps), dtype=torch.float64)
        loss = float(ranks.mean_over_ranks(mean.to(self.model.device, torch.float32)))
        self.loss_sum, self.loss_steps = 0.0, 0
        self.position = replace(done, epoch=done.epoch + 1, step_in_epoch=0)
        measured = self._validate(moment)
        for scheduler in self.schedulers.values():
            end_epoch(scheduler, measured.get(self.model.plateau_by, loss))
        rate = next(iter(self.optimizers.values())).param_groups[0]["lr"]
        self._say(f"end of epoch {done.epoch} / {self.last_epoch}: {seconds:.0f} s, learning rate now {rate:.7f}")
        number = done.epoch - self.first_epoch + 1
        # The state comes last: a kill before it makes all of this again.
        if _crossed(number - 1, number, self.frequencies.panel_epochs) or number == 1:
            self._write_panel(done.epoch)
        saved = _crossed(number - 1, number, self.frequencies.save_epochs)
        evaluated = _crossed(number - 1, number, self.frequencies.eval_epochs)
        if saved or evaluated:
            self.export(str(done.epoch))
        go_on = not evaluated or self._evaluate(done.epoch, moment, stop)
        if saved:
            self.save("latest")
        return go_on

    def _evaluate(self, epoch: int, moment: Moment, stop: StopRequest) -> bool:
        """Log the measures of this epoch's weights; False where `stop` asked to leave meanwhile."""
        left = False

        def stopped() -> bool:
            nonlocal left
            ranks.on_any(False)  # not done; the other ranks take part in each of these questions below
            left = stop.agreed()
            return left

        values: Mapping[str, float] = {}
        if self.evaluate is not None:
            try:
                values = self.evaluate(epoch, stopped)
            finally:
                ranks.on_any(True)
        else:
            while not ranks.on_any(False):
                left = stop.agreed()
        self._scalars(moment, {f"eval_{name}": value for name, value in values.items()})
        return not left

    def _validate(self, moment: Moment, whole: bool = True) -> dict[str, float]:
        """Log how the model does on held-out images, where the data set has any, and keep the best weights.

        Args:
            whole: at the end of an epoch, not inside one.
        """
        held_out: Dataset | None = self.loader.dataset.validation  # type: ignore[attr-defined]
        if held_out is None:
            return {}
        with torch.no_grad(), self.average.applied(), self.model.evaluating():  # what is measured is what is exported
            values = self.model.validate(self._info(), self._read_held_out(held_out))
            better = self.early_stopping.observe(values, moment.epoch, self.model, whole)
        self._tell()
        self._scalars(moment, values | self.early_stopping.scalars())
        if better:
            self.export(BEST)
        return values

    def close(self) -> None:
        """Let every sink write what it still holds."""
        self.outputs.sinks.close()
        self.outputs.pages.close()

    # -- logs and pictures ------------------------------------------------------------------------------------

    def _log(self, moment: Moment, result: StepResult) -> None:
        with torch.no_grad():
            values = result.scalars | self.model.monitors(result.state)
        if not values:  # every weight is zero
            return
        together = ranks.known_mean_over_ranks(torch.stack([v.detach().float().reshape(()) for v in values.values()]))
        scalars = dict(zip(values, together.tolist(), strict=True))
        if self.nonfinite.skipped:
            scalars["skipped_steps"] = float(self.nonfinite.skipped)
        if self.bad_images.found:
            scalars["bad_images"] = float(len(self.bad_images.found))
        scalars["lr"] = next(iter(self.optimizers.values())).param_groups[0]["lr"]
        self._scalars(moment, scalars)

    def _scalars(self, moment: Moment, values: Mapping[str, float]) -> None:
        if values:
            self.outputs.sinks.scalars(moment, values)
            self.outputs.pages.scalars(moment, values)

    def _write_panel(self, epoch: int) -> None:
        at = (epoch, self.position.step)
        if self.outputs.panel is None or not ranks.is_first() or at == self._panel_at:
            return
        self._panel_at = at
        self.model.train(False)
        with self.disk.sparing(), self.average.applied():  # what is seen is what is exported
            self.outputs.panel.write(epoch, self.model.panel)
        self.model.train()

    def _say_bad_images(self) -> None:
        if new := self.bad_images.news():
            with self.disk.sparing():
                self.bad_images.write()
            self.model.messages += [f"WARNING: {line}; the next image takes its place" for line in new]

    def _moment(self, seconds: float, waited: float) -> Moment:
        at = self.position
        images = self.sampler.batch_size * self.sampler.world_size
        return Moment(at.epoch, at.step_in_epoch * images, at.step, at.total_iters, seconds, waited)

    def _tell(self) -> None:
        """Pass on what the model has to say; --quiet does not silence a warning."""
        for message in self.model.messages:
            if message.startswith("WARNING") and ranks.is_first():
                say(message)
            else:
                self._say(message)
        self.model.messages.clear()

    def _say(self, text: str) -> None:
        if ranks.is_first() and not self.outputs.quiet:
            say(text, sys.stdout)

    def _bar(self) -> tqdm[Any]:
        hidden = True if self.outputs.quiet or not ranks.is_first() else None  # None: only on a terminal
        return tqdm(
            total=self._total_steps(),
            initial=self.position.step,
            unit="step",
            disable=hidden,
            dynamic_ncols=True,
        )

    # -- data -------------------------------------------------------------------------------------------------

    def _batches(self) -> Iterator[tuple[Batch, float]]:
        """Batches with the seconds waited for each."""
        batches = iter(self.loader)
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                return
            yield batch, time.monotonic() - asked

    def _read_source(self) -> Iterator[Batch]:
        dataset, collate = self.loader.dataset, self.loader.collate_fn
        files = range(ranks.rank(), len(dataset.source_files), ranks.world_size())  # type: ignore[attr-defined]
        hidden = self.outputs.quiet or not ranks.is_first()
        for file in with_bar(files, "images for pseudo-labels", "image", quiet=hidden):
            batch: Batch = collate([dataset.whole_source(file)])  # type: ignore[attr-defined]
            self.bad_images.note(batch)
            yield batch

    def _read_held_out(self, dataset: Dataset) -> Iterator[Batch]:
        for batch in dataset.whole_batches(
            self.sampler.batch_size // self.accumulate, ranks.rank(), ranks.world_size()
        ):
            self.bad_images.note(batch)
            yield batch.to(self.model.device)

    def _total_steps(self) -> int:
        steps = (self.last_epoch - self.first_epoch + 1) * len(self.sampler)
        return min(steps, self.max_iters) if self.max_iters else steps

    def _info(self) -> StepInfo:
        at = self.position
        progress = at.epoch - self.first_epoch + at.step_in_epoch / len(self.sampler)
        return StepInfo(
            self.seed,
            at.step,
            progress,
            at.step / max(1, self._total_steps()),
            len(self.sampler) / max(1, self._total_steps()),
            ranks.rank(),
            ranks.world_size(),
        )

    # -- checkpoints ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything a run needs to continue as if it had never stopped: tensors and plain values."""
        return collect(self)

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned.

        Raises:
            CheckpointError: the state was made by other networks or with another number of steps in an epoch.
        """
        restore(self, state)

    def save(self, label: str, must: bool = False) -> None:
        """Write the state to continue from, then the plain weights under `label` beside it.

        Where the disk takes no more, the files before stand, a warning says so, and the next save tries again.

        Args:
            must: there is no next save: raise instead.

        Raises:
            CheckpointError: `must`, and something could not be written.
            NonFiniteLossError: a weight is not finite.
        """
        self._settle()
        if ranks.world_size() > 1:  # every rank will continue from the first one's state
            loss = torch.tensor(self.loss_sum, dtype=torch.float64, device=self.model.device)
            self.loss_sum = float(ranks.mean_over_ranks(loss))
        check_weights(self.model.nets)
        with self.disk.sparing(must, again=True):
            if ranks.is_first():
                checkpoint.save_state(self.outputs.folder / checkpoint.STATE_FILE, self.state())
                self.disk.saved = self.position.step
                self._write_weights(label)
        ranks.barrier()

    def export(self, label: str) -> None:
        """Write `<label>_net_<name>.pth` for every network, with CUT's keys; a full disk is warned about."""
        self._settle()
        with self.disk.sparing():
            if ranks.is_first():
                self._write_weights(label)
        ranks.barrier()

    def _write_weights(self, label: str) -> None:
        for name, net in self.model.nets.items():
            weights = self.average.weights(name) or net.state_dict()
            checkpoint.export_weights(self.outputs.folder / f"{label}_net_{name}.pth", weights)
        if facts := self.model.facts():
            write_atomic(self.outputs.folder / f"{label}_facts.json", json.dumps(facts, indent=1).encode())


def _crossed(before: int, after: int, every: int) -> bool:
    """Whether counting from `before` to `after` passes a multiple of `every`; with 0, never."""
    return every > 0 and before // every != after // every
