"""Damaged files for everything that reads files: refused in one line, or read; never a crash, a hang or garbage.

`fuzz_images` is for the decoder of images, `fuzz_readers` for label files, options, saved formats, logs, states and
weights. Each file is a small valid one, damaged (`scripts.faults.mutants`), and is read in a process of its own kind,
so that one which crashes or hangs costs its reader and not the run. A reader may raise its one error, whose message is
one line that names the file, or return what it has read. Everything else is a violation:

- another exception, the end of the process, no answer in five seconds, 512 MiB of memory more than before;
- an image whose shape or depth its header does not say, or that holds NaN;
- silent garbage: anything but the original's content from a truncated image; from a PNG, a training state or a
  network's weights that are damaged in any way (all three carry checksums), unless the damage has brought the right
  checksum with it; from a JPEG whose end is zeros; or from a file that is something else altogether.

What nothing in a file tells, nothing can notice: damaged pixels of a TIFF, BMP, NPY or JPEG, weights as PyTorch wrote
them before 1.6, and every text may be read as something else than the original ("read, changed" in the report).

python -m scripts.faults.fuzz images --count 20000
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from scripts.faults.mutants import Mutant, mutant
from scripts.faults.readers import READERS, Fault, Reader, fingerprint

SECONDS = 5.0  # for one file of a few kB; the slowest takes a few hundredths
MEMORY = 512 * 2**20  # bytes above what the process takes before it reads
MESSAGE = 1000  # characters
_START = 300.0  # seconds in which a process must be ready: it imports PyTorch


@dataclass(frozen=True)
class Violation:
    """What a reader did and must not. `kind`: exception, crash, slow, memory, message, answer or garbage."""

    reader: str
    seed: int
    mutant: Mutant
    kind: str
    detail: str

    def __str__(self) -> str:
        what = f"{self.reader}, seed {self.seed}, number {self.mutant.number}"
        return f"{what}: {self.kind} on {self.mutant.specimen} ({', '.join(self.mutant.strategies)}): {self.detail}"


@dataclass
class Report:
    """What came of the mutants of one reader.

    Attributes:
        read_changed: files read as something else than their original, by family, where that is allowed.
        slowest: seconds, and which file it was.
    """

    reader: str
    seed: int
    files: int = 0
    refused: int = 0
    unchanged: int = 0
    read_changed: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    def __str__(self) -> str:
        changed = ", ".join(f"{count} {family}" for family, count in sorted(self.read_changed.items()))
        lines = [
            f"{self.reader}: {self.files} files (seed {self.seed}), {self.refused} refused, {self.unchanged} read "
            f"unchanged, {self.read_changed.total()} read changed{f' ({changed})' if changed else ''}, "
            f"{len(self.violations)} violations; slowest {self.slowest[0]:.3f} s ({self.slowest[1]})"
        ]
        return "\n".join([*lines, *map(str, self.violations)])


def fuzz_images(count: int, seed: int) -> Report:
    """Damage `count` images of every format and read them."""
    return fuzz(READERS["images"], count, seed)


def fuzz_readers(count: int, seed: int) -> list[Report]:
    """Damage `count` files of other kinds, shared out equally, and read them: a report for each reader."""
    readers = [reader for name, reader in READERS.items() if name != "images"]
    shares = [count // len(readers) + (place < count % len(readers)) for place in range(len(readers))]
    return [fuzz(reader, share, seed) for reader, share in zip(readers, shares, strict=True)]


def fuzz(
    reader: Reader, count: int, seed: int, *, first: int = 0, seconds: float = SECONDS, memory: int = MEMORY
) -> Report:
    """Feed mutants number `first` to `first + count - 1` of a seed to one reader.

    Args:
        seconds: limit for one file.
        memory: limit in bytes, above what the process takes when it starts.

    Raises:
        RuntimeError: the reader cannot be started, or does not read the undamaged files.
    """
    report = Report(reader.name, seed)
    specimens, foreign = reader.specimens(), reader.foreign()
    with contextlib.closing(_Worker(reader, seed, memory)) as worker:
        for number in range(first, first + count):
            found = worker.ask(number, seconds)
            one = mutant(specimens, foreign, seed, number)
            _count(report, one, found)
            if found.kind in ("crash", "slow", "memory"):
                worker.restart()
    return report


@dataclass(frozen=True)
class _Found:
    """`kind`: refused, unchanged, changed, or that of a violation."""

    kind: str
    detail: str
    seconds: float


def _count(report: Report, one: Mutant, found: _Found) -> None:
    report.files += 1
    if found.kind == "refused":
        report.refused += 1
    elif found.kind == "unchanged":
        report.unchanged += 1
    elif found.kind == "changed":
        report.read_changed[one.family] += 1
    else:
        report.violations.append(Violation(report.reader, report.seed, one, found.kind, found.detail))
    what = f"{one.specimen}, {' and '.join(one.strategies)}, number {one.number}, {found.kind}"
    report.slowest = max(report.slowest, (found.seconds, what))


# --- the process that asks


class _Worker:
    """A process that reads, made anew after a crash."""

    def __init__(self, reader: Reader, seed: int, memory: int) -> None:
        # A server that has everything loaded makes a new process in milliseconds; where there is none, seconds.
        kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._context: Any = multiprocessing.get_context(kind)
        if kind == "forkserver":
            self._context.set_forkserver_preload(["scripts.faults.readers"])
        self._arguments = (reader, seed, memory)
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        ready = self._answer(_START)
        if ready.kind != "ready":
            self.close()
            raise RuntimeError(f"the reader {self._arguments[0].name} does not start: {ready.kind} {ready.detail}")

    def ask(self, number: int, seconds: float) -> _Found:
        """What came of mutant `number`."""
        self._pipe.send(number)
        return self._answer(seconds)

    def _answer(self, seconds: float) -> _Found:
        begin = time.perf_counter()
        try:
            if self._pipe.poll(seconds):
                found: _Found = self._pipe.recv()
                return found
        except (EOFError, ConnectionError):
            self._process.join(10)
            return _Found("crash", _how_it_ended(self._process.exitcode), time.perf_counter() - begin)
        return _Found("slow", f"no answer in {seconds:g} s", seconds)

    def restart(self) -> None:
        """End the process, whatever it does, and make a new one."""
        self.close()
        self._start()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "the process closed its pipe"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


# --- the process that reads


def _serve(pipe: Connection, reader: Reader, seed: int, memory: int) -> None:
    """Read what is asked for until the other side is gone."""
    _silence()
    with tempfile.TemporaryDirectory() as name:
        try:
            specimens, foreign = reader.specimens(), reader.foreign()
            truths = {}
            for specimen in specimens:
                path = _write(Path(name), Path(specimen.name).name, specimen.data)
                truths[specimen.name] = fingerprint(reader.read(path))
                path.unlink()
        except Exception:
            pipe.send(_Found("failed", traceback.format_exc(), 0.0))
            return
        most = _peak() + memory
        _limit(4 * memory)
        pipe.send(_Found("ready", "", 0.0))
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                one = mutant(specimens, foreign, seed, pipe.recv())
                found = _judge(reader, one, Path(name), truths[one.specimen])
                if _peak() > most:
                    found = _Found("memory", f"over {memory >> 20} MiB for {len(one.data)} bytes", found.seconds)
                pipe.send(found)


def _judge(reader: Reader, one: Mutant, folder: Path, truth: str) -> _Found:
    path = _write(folder, one.name, one.data)
    begin = time.perf_counter()
    try:
        value = reader.read(path)
        kind, detail = "", ""
    except reader.refusal as error:
        kind, detail = _judge_refusal(reader, path, error)
    except Fault as error:
        kind, detail = "answer", str(error)
    except BaseException as error:  # whatever it is, even the wish to end the process
        kind, detail = "exception", f"{type(error).__name__}: {str(error)[:200]!r}"
    seconds = time.perf_counter() - begin
    if not kind:
        kind, detail = _judge_value(one, fingerprint(value), truth)
    path.unlink()
    return _Found(kind, detail.replace(f"{folder}{os.sep}", ""), seconds)  # the same wherever it is run


def _judge_refusal(reader: Reader, path: Path, error: Exception) -> tuple[str, str]:
    message = str(error)
    if any(isinstance(cause, MemoryError) or "nsufficient memory" in str(cause) for cause in _causes(error)):
        return "memory", f"refused only because there was no more: {message[:200]!r}"
    if not message.isprintable() or not 0 < len(message) <= MESSAGE:
        return "message", f"no line of at most {MESSAGE} characters: {message[:300]!r}"
    if reader.names_file and path.name not in message:
        return "message", f"does not name the file: {message!r}"
    return "refused", ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _judge_value(one: Mutant, value: str, truth: str) -> tuple[str, str]:
    if one.allowed == "nothing":
        return "garbage", "read, though it is a file of another kind"
    if value == truth:
        return "unchanged", ""
    return ("changed", "") if one.allowed == "any" else ("garbage", "other content than the original's")


def _write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _silence() -> None:
    """Send what this process prints nowhere: decoders written in C write their complaints where they like."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _peak() -> int:
    """The most bytes this process has held so far; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _limit(more: int) -> None:
    """Let the process have so many bytes beside what it has; a file must not take the machine down."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + more,) * 2)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.faults.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reader", choices=sorted(READERS))
    parser.add_argument("--count", type=int, default=1000, help="files")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first file: with --count 1, of the only one"
    )
    parser.add_argument("--keep", type=Path, help="folder for copies of the files that make a violation")
    wanted = parser.parse_args(argv)
    report = fuzz(READERS[wanted.reader], wanted.count, wanted.seed, first=wanted.first)
    print(report)
    if wanted.keep:
        wanted.keep.mkdir(parents=True, exist_ok=True)
        for violation in report.violations:
            one = violation.mutant
            _write(wanted.keep, f"{one.number}_{one.name}", one.data)
    return 1 if report.violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
