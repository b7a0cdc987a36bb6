# SPDX-License-Identifier: GPL-2.0-or-later
"""What the parts of a lock cost in a sealed guest, one line each: name, then millions of emulated instructions.

The guest's clock is the emulated machine's, which runs 300 M instructions a second (`ips` in tests/lab/bochs.py).
"""

import time
from collections.abc import Callable

from mbecguard.device import open_device
from mbecguard.lock.request import equal_request
from mbecguard.session import Places, Session
from mbecguard.settings.load import load as load_settings

RATE = 0.3  #: instructions per nanosecond


def cost(act: Callable[[], object]) -> float:
    """Millions of instructions; the least of three, for the timer interrupts."""
    spent = []
    for _ in range(3):
        started = time.perf_counter_ns()
        act()
        spent.append((time.perf_counter_ns() - started) * RATE / 1e6)
    return min(spent)


session = Session(load_settings(), Places.live())
host, device = session.host, open_device()
entry = session.store.last(session.guest.boot_id)
assert entry
request = equal_request(session.store.plan(entry.record), host.canary_pfn)

print(f"agent-survey-and-plan {cost(session.look):.1f}")
print(f"shim-walk {cost(lambda: list(device.mappings(content=True))):.2f}")
print(f"shim-and-host-query {cost(device.query):.3f}")
print(f"shim-and-host-{len(request)}-ranges {cost(lambda: host.protect(request)):.2f}")
print(f"canary-on-every-cpu {cost(host.run_canary):.2f}")
