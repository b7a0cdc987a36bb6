# SPDX-License-Identifier: GPL-2.0-or-later
"""bpf(2), as far as it takes to have code compiled that takes room, and to keep it. Mechanism, no judgement."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

FILESYSTEM = Path("/sys/fs/bpf")

_NUMBER = 321  # of the system call on x86-64
_TRIES = 10  # the verifier gives up where a signal waits
_SOCKET_FILTER, _XDP = 1, 6  # include/uapi/linux/bpf.h: enum bpf_prog_type
_NAME = b"mbecguard"
_LICENSE = b"GPL\0"

_INSN = struct.Struct("<BBhi")
_ZERO = _INSN.pack(0xB7, 0, 0, 0)  # r0 = 0
_SWAP = _INSN.pack(0xDC, 0, 0, 16)  # r0 = be16(r0): no constant that bpf_jit_harden would hide
_EXIT = _INSN.pack(0x95, 0, 0, 0)
_SWAP_BYTES = 7  # of a swap, compiled: ror, movzwl
_FRAME = 64  # bytes of a packet
_AROUND = 128  # bytes that the compiler puts around the code, at most

# The beginnings of union bpf_attr, and of struct bpf_prog_info up to jited_ksyms.
_LOAD = struct.Struct("<2I2Q2IQ2I16s")
_PIN = struct.Struct("<Q2I")
_ASK = struct.Struct("<2IQ")
_TEST = struct.Struct("<4I2Q2I")
_INFO = struct.Struct("<104xI4xQ8x")


class _Command(IntEnum):
    PROG_LOAD = 5
    OBJ_PIN = 6
    PROG_TEST_RUN = 10
    OBJ_GET_INFO_BY_FD = 15


@dataclass(frozen=True, slots=True)
class Program:
    """A program that is loaded as long as its descriptor is open, or it is pinned; `va` lies in its code."""

    fd: int
    va: int

    def pin(self, path: Path) -> None:
        """Give it a name in a BPF file system; raises OSError."""
        name = ctypes.create_string_buffer(bytes(path))
        _bpf(_Command.OBJ_PIN, _PIN.pack(ctypes.addressof(name), self.fd, 0))

    def close(self) -> None:
        """Let it go."""
        os.close(self.fd)


def load(size: int) -> Program:
    """Load a program that nobody calls, whose code takes hardly less than `size` bytes, and not more.

    Raises OSError; `va` is 0 where the kernel does not tell addresses.
    """
    fd = _load(_SOCKET_FILTER, max((size - _AROUND) // _SWAP_BYTES, 0))
    try:
        return Program(fd, _address(fd))
    except BaseException:
        os.close(fd)
        raise


def make_dispatcher() -> None:
    """Have the kernel make its dispatcher of XDP programs, as it does when the first is attached. Raises OSError.

    net/bpf/test_run.c bpf_prog_test_run_xdp() does that for a program that runs more than once.
    """
    frame = ctypes.create_string_buffer(_FRAME)
    fd = _load(_XDP, 0)
    try:
        _bpf(_Command.PROG_TEST_RUN, _TEST.pack(fd, 0, _FRAME, 0, ctypes.addressof(frame), 0, 2, 0))
    finally:
        os.close(fd)


def _load(kind: int, swaps: int) -> int:
    code = ctypes.create_string_buffer(_ZERO + _SWAP * swaps + _EXIT)
    license_ = ctypes.create_string_buffer(_LICENSE)
    where = ctypes.addressof(code), ctypes.addressof(license_)
    return _bpf(_Command.PROG_LOAD, _LOAD.pack(kind, swaps + 2, *where, 0, 0, 0, 0, 0, _NAME))


def _address(fd: int) -> int:
    va = ctypes.c_uint64()
    info = ctypes.create_string_buffer(_INFO.pack(1, ctypes.addressof(va)), _INFO.size)
    _bpf(_Command.OBJ_GET_INFO_BY_FD, _ASK.pack(fd, _INFO.size, ctypes.addressof(info)))
    return va.value


def _bpf(command: _Command, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(_TRIES):
        result = int(libc.syscall(_NUMBER, command, attributes, len(attributes)))
        if result >= 0:
            return result
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
