"""Errors of the user's are one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.decoders import ImageError
from util.errors import UserError, exit_code


def say(error: BaseException) -> int:
    def main() -> int:
        raise error

    return exit_code(main)


def test_user_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert say(UserError("--flag 3: must be 4")) == 2
    assert capsys.readouterr().err == "error: --flag 3: must be 4\n"


def test_a_worker_s_traceback_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    wrapped = "Caught ImageError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    wrapped += "  File \"x.py\", line 1\ndata.decoders.ImageError: 'a: b.png': is damaged; replace it\n"
    assert say(ImageError(wrapped)) == 2
    assert capsys.readouterr().err == "error: 'a: b.png': is damaged; replace it\n"


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        (tmp_path / "absent").read_bytes()
        return 0

    assert exit_code(main) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'absent'}: No such file or directory\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),  # from cuDNN 9 on
    ],
)
def test_too_little_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert say(error) == 2
    assert capsys.readouterr().err.startswith("error: out of memory: lower --batch_size")


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        say(ZeroDivisionError())


def test_ctrl_c_is_status_130() -> None:
    assert say(KeyboardInterrupt()) == 130
