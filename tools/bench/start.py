# SPDX-License-Identifier: GPL-2.0-or-later
"""What starting costs, and what the daemon keeps of the memory while it waits."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .figure import Figure
from .product import Product, instructions, private

M, MIB = "M instructions", "MiB private"
SECONDS = 60  #: until an idle process has to be idle
WAITS = "import time\ntime.sleep(600)\n"


def figures(product: Product) -> Iterator[Figure]:
    """The figures."""
    yield Figure("interpreter: start", instructions((*product.python, "-c", "pass")), M)
    yield Figure("mbecguard --help", product.instructions("--help"), M, 120)
    status = (*product.sealed, "status", *product.sealed_state)
    yield Figure("mbecguard status, sealed", instructions(status), M, 300)
    yield Figure("interpreter: waiting", _idle((*product.python, "-c", f"print(flush=True)\n{WAITS}")), MIB)
    libraries = "import argparse, json, re\nprint(flush=True)\n"
    yield Figure(
        "interpreter: waiting, with argparse, json, re", _idle((*product.python, "-c", libraries + WAITS)), MIB
    )
    daemon = (*product.sealed, "daemon", *product.sealed_state)
    yield Figure("mbecguard daemon, sealed, idle", _idle_daemon(daemon, product.scratch / "notify"), MIB, 7.5)


def _idle(command: tuple[str, ...]) -> float:
    """Private memory of a program that waits after it has written a line."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            return private(process.pid)
        finally:
            process.kill()


def _idle_daemon(command: tuple[str, ...], path: Path) -> float:
    """Private memory of a service that has told its manager that it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(SECONDS)
        with subprocess.Popen(command, env=os.environ | {"NOTIFY_SOCKET": str(path)}) as process:
            try:
                told = manager.recv(65536).decode()
                assert "READY=1" in told, told
                assert "sealed" in told, told
                return private(process.pid)
            finally:
                process.kill()
