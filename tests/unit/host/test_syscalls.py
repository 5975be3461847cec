"""System calls by number: right on the machines that are known, refused elsewhere."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

import pytest

from tracer.host import syscalls


class _Uname(NamedTuple):
    """What uname(2) says of an imagined host."""

    machine: str


def test_numbers_are_those_of_this_machine() -> None:
    """The kernel that runs the tests knows its own calls by the table's numbers."""
    assert os.uname().machine in syscalls.NUMBERS
    assert syscalls.wait_for_readers()
    assert syscalls.listen_to_calls(b"") == -errno.EINVAL  # seccomp(2): a filter of no instructions


@pytest.mark.parametrize("machine", ["armv7l", "mips64", "alpha"])
def test_an_unknown_machine_makes_no_call(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is another call there is never used: the answer is that the kernel cannot."""
    monkeypatch.setattr(os, "uname", lambda: _Uname(machine))
    assert not syscalls.wait_for_readers()
    assert syscalls.listen_to_calls(b"12345678") == -errno.ENOSYS
