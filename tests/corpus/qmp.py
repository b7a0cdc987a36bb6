# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's machine protocol over the process's own standard input and output."""

from __future__ import annotations

import json
import re
import selectors
import subprocess
import time
from typing import Any

from mbecguard.values.errors import die

ANSWER_LIMIT = 60.0  #: seconds


class Qmp:
    """A QEMU started with `-qmp stdio` and unbuffered pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        assert process.stdout
        self._process = process
        self._in, self._out = process.stdin, process.stdout
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: object) -> Any:
        """The `return` value of one command; events are skipped."""
        self._in.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        self._in.flush()
        deadline = time.monotonic() + ANSWER_LIMIT
        while True:
            answer = json.loads(self._line(name, deadline))
            if "error" in answer:
                die(f"QEMU refused {name}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def alive(self) -> bool:
        """Whether QEMU still runs."""
        return self._process.poll() is None

    def registers(self) -> dict[str, int]:
        """Control registers of CPU 0, by name: CR0, CR3, CR4, EFER..."""
        text = self.command("human-monitor-command", **{"command-line": "info registers"})
        return {name: int(value, 16) for name, value in re.findall(r"\b(CR\d|EFER)=([0-9a-f]+)", text)}

    def _line(self, name: str, deadline: float) -> bytes:
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                die(f"QEMU did not answer {name} in {ANSWER_LIMIT:.0f} s")
            data = self._out.read(65536)
            if not data:
                die(f"QEMU ended before it answered {name}", hint="its log is in the cache folder")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
