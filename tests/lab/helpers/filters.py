# SPDX-License-Identifier: GPL-2.0-or-later
"""COUNT filters of sockets, of so many INSTRUCTIONS, by USER, each used once: how many work, or what stopped it."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import struct
import sys

SO_ATTACH_FILTER = 26
LOAD, RETURN = struct.pack("<HBBI", 0, 0, 0, 4711), struct.pack("<HBBI", 6, 0, 0, 1)  # A = 4711; keep one byte


def attach(receiver: socket.socket, instructions: int) -> None:
    """A classic filter: no privilege is needed. Raises OSError."""
    code = ctypes.create_string_buffer(LOAD * (instructions - 1) + RETURN)
    receiver.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxP", instructions, ctypes.addressof(code))
    )


def main(count: int, instructions: int, user: int) -> str:
    """Attach and use them, as root or as another user."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * count + 100,) * 2)
    os.setresuid(user, user, user)
    sockets = []
    for number in range(count):
        left, right = socket.socketpair(type=socket.SOCK_DGRAM)
        sockets += [left, right]
        try:
            attach(right, instructions)
        except OSError as error:
            return f"refused after {number}: {error.strerror}"
        left.send(b"datagram")
        if right.recv(100) != b"d":
            return f"{number} is not applied"
    return f"{count} work"


print(main(*map(int, sys.argv[1:])))
