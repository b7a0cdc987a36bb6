# SPDX-License-Identifier: GPL-2.0-or-later
"""A megabyte over TCP on lo, past the firewall's rules."""

import socket
import subprocess
import threading

SIZE = 1 << 20

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
listener = socket.create_server(("127.0.0.1", 0))


def serve() -> None:
    """Send everything to one client."""
    with listener.accept()[0] as client:
        client.sendall(bytes(SIZE))


threading.Thread(target=serve, daemon=True).start()
with socket.create_connection(listener.getsockname(), timeout=60) as connection:
    received = 0
    while piece := connection.recv(1 << 16):
        received += len(piece)
assert received == SIZE, received
