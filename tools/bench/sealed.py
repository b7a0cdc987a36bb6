# SPDX-License-Identifier: GPL-2.0-or-later
"""A sealed guest without a host: a real lock over the shim's fake, whose answers are played again to the agent.

So what is measured runs as in a guest: on the running system, with the device's own code, and without the simulator.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from mbecguard.device import CANARY_VALUE, ShimDevice
from mbecguard.host.shim import ShimHost
from mbecguard.records.status import status
from tests.fakeshim import PFNS, FakeShim
from tests.lockbench import Bench
from tests.plans import make_plan

#: For the agent's launcher: the device answers what it was asked before.
PLAYED = """\
import json, os
from mbecguard import device
answers = {{int(key): bytes.fromhex(value) for key, value in json.load(open({file!r})).items()}}
def ioctl(request, structure):
    structure[:] = answers[request << 32 | int.from_bytes(structure[4:8], "little")]
device.open_device = lambda _path=None: device.ShimDevice(os.open(os.devnull, os.O_RDONLY), ioctl)
"""


class _Canary(ShimDevice):
    """Its page need not be mapped."""

    def call_canary(self) -> int:
        return CANARY_VALUE


def seal(folder: Path, boot_id: str) -> str:
    """Lock a guest in `folder`; its state folder is `folder`/state. Returns what a launcher needs."""
    fake, answers = FakeShim(), {}

    def ioctl(request: int, structure: bytearray) -> None:
        key = request << 32 | int.from_bytes(structure[4:8], "little")
        fake.ioctl(request, structure)
        answers[key] = structure.hex()

    host = ShimHost(_Canary(os.open(os.devnull, os.O_RDONLY), ioctl))
    bench = Bench(folder, boot_id=boot_id, plans=[make_plan(max_pfn=PFNS)])
    bench.lock(host)
    assert status(host, bench.store, boot_id).exit == 0
    (folder / "answers").write_text(json.dumps(answers))
    return PLAYED.format(file=str(folder / "answers"))
