"""Labels for images that have none: one a file, known ones kept, names that stay."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from models.cutcam_model import CutCamModel
from models.pseudo_labels import PseudoLabels
from util import ranks
from util.seeding import StepInfo, generator

if TYPE_CHECKING:
    from tests.conftest import Bench, BenchMaker, DataMaker

NONE = (-1,) * 12
TRUE = [0, 1, 2] * 4
FILES = [f"trainA/{n:02d}.png" for n in range(12)]


def images(known: Sequence[int] = NONE) -> list[Any]:
    """Twelve images of one file each, four of each of three kinds; `A` carries the file's number."""
    return [
        SimpleNamespace(
            A=torch.full((1, 1, 4, 4), float(n)),
            label_A=torch.tensor([label]),
            file_A=torch.tensor([n]),
            path_A=(f"trainA/{n:02d}.png",),
        )
        for n, label in enumerate(known)
    ]


def encode(source: Tensor) -> tuple[Tensor, Tensor]:
    """The same feature for all files of a kind, and a head that calls nearly everything class 0."""
    number = int(source.flatten()[0])
    kind = number % 3
    feature = torch.rand(1, 3, 4, 4, generator=generator(0, "kind", kind))
    logits = torch.tensor([[5.0, 0.1 * (kind == 1), 0.2 * (kind == 2)]])
    return feature, logits


def labels_of(pseudo: PseudoLabels, files: Sequence[str] = FILES) -> list[int]:
    found: list[int] = pseudo.resolve(torch.full((len(files),), -1), files, torch.zeros(len(files), 3)).tolist()
    return found


def same_partition(a: Sequence[int], b: Sequence[int]) -> bool:
    return len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


def test_kmeans_finds_the_clusters_and_says_so() -> None:
    pseudo = PseudoLabels("kmeans", 3, 0, seed=0)
    assert labels_of(pseudo) == list(NONE)
    text = pseudo.refresh(0, images(), encode)
    assert text == "pseudo-labels (kmeans), round 1: images per class [4, 4, 4], 100% changed"
    assert same_partition(labels_of(pseudo), TRUE)


def test_sinkhorn_balances_a_lopsided_head() -> None:
    pseudo = PseudoLabels("sinkhorn", 3, 0, seed=0)
    pseudo.refresh(0, images(), encode)
    assert labels_of(pseudo) == TRUE  # the head's order of preference decides the names


def test_known_labels_win_and_pull_their_cluster() -> None:
    known = list(NONE)
    known[3], known[7] = 2, 0  # kinds 0 and 1
    for mode in ("kmeans", "sinkhorn"):
        pseudo = PseudoLabels(mode, 3, 0, seed=0)
        pseudo.refresh(0, images(known), encode)
        found = labels_of(pseudo)
        assert (found[3], found[7]) == (2, 0)
        if mode == "kmeans":
            assert found == [2, 0, 1] * 4
    resolved = pseudo.resolve(torch.tensor([1, -1]), [FILES[3], FILES[7]], torch.zeros(2, 3))
    assert resolved.tolist() == [1, 0]


def test_labels_belong_to_files_not_to_places_in_the_batch() -> None:
    pseudo = PseudoLabels("kmeans", 3, 0, seed=0)
    pseudo.refresh(0, images(), encode)
    every = torch.tensor(labels_of(pseudo))
    files = torch.tensor([11, 0, 5, 5])
    assert labels_of(pseudo, [FILES[n] for n in files]) == every[files].tolist()


def test_names_stay_from_round_to_round() -> None:
    pseudo = PseudoLabels("kmeans", 3, 1, seed=0)
    pseudo.refresh(0, images(), encode)
    before = labels_of(pseudo)
    state = pseudo.state()
    pseudo.load({**state, "labels": (state["labels"] + 1) % 3})  # as if the last round had named them otherwise
    text = pseudo.refresh(1, images(), encode)
    assert labels_of(pseudo) == [(label + 1) % 3 for label in before]
    assert text.endswith("round 2: images per class [4, 4, 4], 0% changed")


def test_rounds_are_frequent_at_first() -> None:
    def epochs(every: int, mode: str = "kmeans") -> list[int]:
        pseudo, made = PseudoLabels(mode, 3, every, seed=0), []
        for epoch in range(20):
            if pseudo.due(epoch):
                pseudo.refresh(epoch, images(), encode)
                made.append(epoch)
        return made

    assert epochs(0) == [0, 1, 2, 3, 4, 9, 14, 19]
    assert epochs(3) == [0, 3, 6, 9, 12, 15, 18]
    assert epochs(1) == list(range(20))
    assert epochs(0, "argmax") == epochs(0, "none") == []


def test_argmax_follows_the_head_and_none_does_nothing() -> None:
    logits = torch.tensor([[0.0, 2, 1], [3.0, 2, 1], [0.0, 0, 1]])
    labels, files = torch.tensor([-1, 1, -1]), FILES[:3]
    assert PseudoLabels("argmax", 3, 0, 0).resolve(labels, files, logits).tolist() == [1, 1, 2]
    assert PseudoLabels("none", 3, 0, 0).resolve(labels, files, logits).tolist() == [-1, 1, -1]


def test_a_checkpoint_keeps_labels_and_rounds() -> None:
    first, second = PseudoLabels("kmeans", 3, 2, seed=0), PseudoLabels("kmeans", 3, 2, seed=0)
    first.refresh(0, images(), encode)
    second.load(first.state())
    assert labels_of(second) == labels_of(first)
    assert [second.due(epoch) for epoch in range(4)] == [False, False, True, True]


def test_data_that_changed_since_the_checkpoint_keep_the_labels_of_the_files_that_stayed() -> None:
    """A file in front moves all numbers by one, and the last number did not exist when the labels were made."""
    first, second = PseudoLabels("kmeans", 3, 2, seed=0), PseudoLabels("kmeans", 3, 2, seed=0)
    first.refresh(0, images(), encode)
    second.load(first.state())
    assert labels_of(second, ["trainA/new.png", *FILES]) == [-1, *labels_of(first)]
    assert labels_of(second, FILES[4:]) == labels_of(first)[4:]
    text = second.refresh(2, images((*NONE, -1, -1, -1)), encode)  # fifteen files: the next round labels them all
    assert "images per class [5, 5, 5]" in text
    assert labels_of(second) == labels_of(first)


def test_a_checkpoint_without_paths_makes_a_new_round() -> None:
    pseudo = PseudoLabels("kmeans", 3, 2, seed=0)
    pseudo.load({"labels": torch.tensor([0, 1, 2]), "rounds": 4, "last_epoch": 7})
    assert labels_of(pseudo) == list(NONE)
    assert pseudo.due(8)


# --- several ranks

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


def on_ranks(world: int, patch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Run `work` on `world` threads that exchange tensors as the ranks of a run do."""
    here, meet, sent = threading.local(), threading.Barrier(world, timeout=60), {}

    def exchange(value: Tensor) -> list[Tensor]:
        sent[here.rank] = value.clone()
        meet.wait()
        values = [sent[rank] for rank in range(world)]
        meet.wait()
        return values

    patch.setattr(ranks, "rank", lambda: here.rank)
    patch.setattr(ranks, "world_size", lambda: world)
    patch.setattr(ranks, "device", lambda: torch.device("cpu"))
    patch.setattr(ranks, "sum_over_ranks", lambda value: torch.stack(exchange(value)).sum(0).to(value.dtype))
    patch.setattr(ranks, "from_first", lambda value: exchange(value)[0])
    failures: list[BaseException] = []

    def one(rank: int) -> None:
        here.rank = rank
        try:
            work()
        except BaseException as error:
            failures.append(error)
            meet.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


@pytest.mark.parametrize(("world", "shared"), [(2, False), (5, True), (16, False)])  # 16: more than files
@pytest.mark.parametrize("mode", ["kmeans", "sinkhorn"])
def test_every_rank_encodes_its_share_and_all_get_what_one_process_gets(
    monkeypatch: pytest.MonkeyPatch, world: int, shared: bool, mode: str
) -> None:
    known = list(NONE)
    known[3] = 2
    alone = PseudoLabels(mode, 3, 0, seed=0)
    expected = alone.refresh(0, images(known), encode)
    seen: dict[int, list[int]] = {}
    made: list[tuple[str, list[int]]] = []

    def work() -> None:
        rank, pseudo = ranks.rank(), PseudoLabels(mode, 3, 0, seed=0)

        def counted(source: Tensor) -> tuple[Tensor, Tensor]:
            seen.setdefault(rank, []).append(int(source.flatten()[0]))
            return encode(source)

        whole = images(known)
        text = pseudo.refresh(0, whole[rank::world] if shared else whole, counted)
        made.append((text, labels_of(pseudo)))

    on_ranks(world, monkeypatch, work)
    assert seen == {rank: list(range(rank, 12, world)) for rank in range(min(world, 12))}
    assert made == [(expected, labels_of(alone))] * world


# --- in the model


def begin(made: Bench, epoch: float = 0.0) -> list[str]:
    whole = (made.dataset.collate([made.dataset.whole_source(n)]) for n in range(len(made.dataset.source_files)))
    made.model.messages.clear()
    made.model.begin_epoch(StepInfo(0, 0, epoch, epoch / 10), lambda: whole)
    return list(made.model.messages)


CUTCAM = ("--model", "cutcam", "--num_classes", 4, "--batch_size", 2)


def test_a_round_reads_whole_images_and_leaves_no_trace(bench: BenchMaker, data: DataMaker) -> None:
    """Dropout is off meanwhile and on again afterwards, batch norm's statistics stay, nothing is drawn."""
    flags = (*CUTCAM, "--no_dropout", False, "--normG", "batch", "--head_dropout", 0.5)
    made = bench(*flags, data=data(count=(8, 4), labelled=(0,)))
    assert isinstance(made.model, CutCamModel)
    made.step()
    before = {name: value.clone() for name, value in made.model.nets["G"].state_dict().items()}
    rounds = []
    for seed in range(2):
        torch.manual_seed(seed)
        made.model.pseudo = PseudoLabels("kmeans", 4, 0, seed=0)
        (text,) = begin(made)
        assert "round 1" in text
        rounds.append(made.model.pseudo.state()["labels"])
    assert torch.equal(*rounds)
    assert int(rounds[0][0]) == 0
    for name, value in made.model.nets["G"].state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(module.training for net in made.model.nets.values() for module in net.modules())
    labels = made.model.forward_train(made.batch(), made.info()).labels
    assert torch.equal(labels, rounds[0][made.batch().file_A])


def test_training_goes_on_with_more_files_than_were_labelled(bench: BenchMaker, data: DataMaker) -> None:
    few, many = (bench(*CUTCAM, data=data(count=(n, 4), labelled=())) for n in (4, 7))
    begin(few)
    many.model.load_extra_state(few.model.extra_state())
    state = few.model.extra_state()["pseudo"]
    known = dict(zip(state["files"], state["labels"].tolist(), strict=True))
    for number in range(4):
        batch = many.batch(number)
        labels = many.model.forward_train(batch, many.info()).labels
        assert labels.tolist() == [known.get(path, -1) for path in batch.path_A]
        many.step(number, batch)


@pytest.mark.parametrize(
    ("flags", "labelled", "epoch", "made_a_round"),
    [
        ((), (), 0, True),
        ((), (0, 1), 0, True),
        ((), None, 0, False),  # every image has a label
        (("--pseudo_labels", "argmax"), (), 0, False),
        (("--cls_start_epoch", 2), (), 1, False),
        (("--cls_start_epoch", 2), (), 2, True),
        (("--lambda_CLS", 0, "--lambda_CAM", 0), (), 0, False),
        (("--lambda_CLS", 0), (), 0, True),
    ],
)
def test_rounds_are_made_only_where_somebody_reads_them(
    bench: BenchMaker,
    data: DataMaker,
    flags: tuple[object, ...],
    labelled: tuple[int, ...] | None,
    epoch: int,
    made_a_round: bool,
) -> None:
    made = bench(*CUTCAM, *flags, data=data(labelled=labelled))
    assert bool(begin(made, epoch)) == made_a_round
