# SPDX-License-Identifier: GPL-2.0-or-later
"""Load and attach small BPF programs, create the file named on the command line, and hold them for ever."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
from pathlib import Path

SYS_BPF = 321
PROG_LOAD, OBJ_PIN, PROG_ATTACH = 5, 6, 8
SOCKET_FILTER, XDP, CGROUP_SKB = 1, 6, 8
CGROUP_INET_EGRESS = 1
SO_ATTACH_FILTER = 26

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> int:
    """The bpf(2) system call; `attributes` is the leading part of union bpf_attr."""
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    result = int(libc.syscall(SYS_BPF, command, buffer, 128))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def load(kind: int, value: int, padding: int, name: str) -> int:
    """A program that returns `value`, `padding` additions long."""
    code = struct.pack("<BBhi", 0xB7, 0, 0, value - padding)
    code += struct.pack("<BBhi", 0x07, 0, 0, 1) * padding
    code += struct.pack("<BBhi", 0x95, 0, 0, 0)
    text, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "<IIQQIIQII", kind, len(code) // 8, ctypes.addressof(text), ctypes.addressof(licence), 0, 0, 0, 0, 0
    )
    return bpf(PROG_LOAD, attributes + name.encode()[:15].ljust(16, b"\0"))


def pin(program: int, path: str) -> None:
    """Give a program a name in the BPF file system."""
    where = ctypes.create_string_buffer(path.encode())
    bpf(OBJ_PIN, struct.pack("<QI", ctypes.addressof(where), program))


def filtered_socket(length: int) -> socket.socket:
    """A socket with a classic filter (also compiled to machine code, but without a symbol)."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    code = struct.pack("<HBBI", 0x04, 0, 0, 1) * length + struct.pack("<HBBI", 0x06, 0, 0, 0xFFFF)
    text = ctypes.create_string_buffer(code)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxQ", length + 1, ctypes.addressof(text)))
    return sock


def main() -> None:
    """Forty programs, four filters, one cgroup program, one XDP program (which brings a dispatcher)."""
    held = [load(SOCKET_FILTER, 0, 20 * number, f"corpus_{number}") for number in range(40)]
    sockets = [filtered_socket(16 * number) for number in range(1, 5)]
    egress = load(CGROUP_SKB, 1, 8, "corpus_egress")
    cgroup = os.open("/sys/fs/cgroup/system.slice", os.O_RDONLY)
    bpf(PROG_ATTACH, struct.pack("<IIII", cgroup, egress, CGROUP_INET_EGRESS, 2))
    pin(load(XDP, 2, 4, "corpus_xdp"), "/sys/fs/bpf/corpus_xdp")
    Path(sys.argv[1]).write_text(f"{len(held)} {len(sockets)}\n")
    signal.pause()


main()
