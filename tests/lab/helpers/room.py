# SPDX-License-Identifier: GPL-2.0-or-later
"""Reserve so many packs for BPF programs as the agent does (`make COUNT`), or `give-back`."""

from __future__ import annotations

import sys

from mbecguard.guest.live import live_guest
from mbecguard.guest.procfs import Kallsyms
from mbecguard.lock.room import LiveRoom
from mbecguard.values.pages import PageSet

guest = live_guest()
symbols = Kallsyms(guest.tree.data("proc/kallsyms") or b"")
room = LiveRoom(lambda: guest.memory.read(symbols))
if sys.argv[1] == "make":
    assert not room.obstacle, room.obstacle
    count = int(sys.argv[2])
    print(f"{count} new, {room.make(count, PageSet())} bytes for users")
else:
    room.give_back()
    print("done")
