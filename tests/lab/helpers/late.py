# SPDX-License-Identifier: GPL-2.0-or-later
"""Ask for new kernel code, as `bpf` or as `kexec`, and print what comes of it."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys

KEXEC_LOAD, BPF = 246, 321
PROG_LOAD, OBJ_GET_INFO_BY_FD, SOCKET_FILTER = 5, 15, 1
SO_ATTACH_BPF = 50
RETURN_1 = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = 1; exit

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(number: int, *arguments: object) -> int:
    """A system call. Raises OSError."""
    result = int(libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def bpf(command: int, *fields: int, layout: str) -> int:
    """bpf(2)."""
    attributes = struct.pack(layout, *fields).ljust(128, b"\0")
    return call(BPF, ctypes.c_int(command), attributes, ctypes.c_uint(len(attributes)))


def load_filter() -> str:
    """A socket filter that keeps one byte of each datagram: whether it was compiled, and whether it works."""
    program, licence = ctypes.create_string_buffer(RETURN_1), ctypes.create_string_buffer(b"GPL")
    fields = (SOCKET_FILTER, len(RETURN_1) // 8, ctypes.addressof(program), ctypes.addressof(licence))
    fd = bpf(PROG_LOAD, *fields, layout="<IIQQ")
    info = ctypes.create_string_buffer(256)
    bpf(OBJ_GET_INFO_BY_FD, fd, len(info), ctypes.addressof(info), layout="<IIQ")
    (compiled,) = struct.unpack_from("<I", info.raw, 16)  # struct bpf_prog_info: jited_prog_len
    left, right = socket.socketpair(type=socket.SOCK_DGRAM)
    right.setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, fd)
    left.send(b"datagram")
    return f"{'compiled' if compiled else 'interpreted'}, {'works' if right.recv(100) == b'd' else 'fails'}"


def load_kexec() -> str:
    """No image at all, which only somebody who may not load any is refused."""
    try:
        call(KEXEC_LOAD, ctypes.c_ulong(0), ctypes.c_ulong(0), None, ctypes.c_ulong(0))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


print({"bpf": load_filter, "kexec": load_kexec}[sys.argv[1]]())
