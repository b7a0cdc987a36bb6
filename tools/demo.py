# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job: a stock Debian guest on MBEC hardware, emulated or real, locks itself, and an attack fails then."""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import sys
import time

from mbecguard.values.errors import Exit, UserError
from tests.lab import verdict
from tests.lab.layers import GUEST_SUITES, Host, Stack, Userland
from tests.lab.run import Progress, run
from tests.lab.scenarios import find
from tests.lab.verdict import Outcome

LIMIT = 1800.0  #: seconds; on an idle machine about six minutes
SCENARIO = "lock"

#: What each fact means, as it arrives.
STORY = {
    "mbec": "L1, a host with our KVM, is up. Mode-based execute control: {value}",
    "booted": "L2, a stock Debian guest with systemd, is up: Linux {value}",
    "modules": "modules loaded in the guest: {value}",
    "attack-before": "ATTACK before the lock: code in heap and vmalloc, NX cleared in the page tables: {value}",
    "open": "mbecguard status: exit status {value} by the host (nothing is locked)",
    "check": "mbecguard check: exit status and blockers: {value}",
    "lock": "mbecguard lock: exit status and state: {value}",
    "kept": "what the kernel may still execute: {value}",
    "frozen": "frozen: {value}",
    "left-open": "left open, with the reason: {value}",
    "sealed": "mbecguard status: exit status, state, the host's mode, sealed by the host's own account: {value}",
    "audit": "mbecguard audit: exit status {value}",
    "attack-after": "ATTACK after the lock, the same code in two other pages: {value}",
    "counted": "denied fetches that the host counted meanwhile: {value}",
    "found": "new executable memory, which never ran; mbecguard audit: exit status and what it found: {value}",
    "neighbour": "the kernel's own code beside it, and the same page frame in user mode: {value}",
    "smep": "clearing CR4.SMEP, on every CPU: {value}",
    "unlock": "asking the host to make the payload's page executable again: {value} (EPERM)",
}
EMULATED = "All emulated: a CPU with MBEC (Bochs), a Debian host in it, a Debian guest in that. It takes minutes."
NATIVE = "A Debian guest on this machine's processor and KVM."
BAD = frozenset({"died", "trap"})


class Narrator:
    """Tells the verdict port's facts as a story."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, line: str) -> None:
        """Tell one line, if it is part of the story."""
        try:
            row = json.loads(line)
        except ValueError:
            return
        if isinstance(row, dict) and (text := STORY.get(row.get("fact", ""))):
            elapsed = time.monotonic() - self._started
            print(f"[{elapsed:6.0f} s] {text.format(value=_paint(str(row.get('value'))))}", flush=True)


def _paint(value: str) -> str:
    if not sys.stdout.isatty() or not value:
        return value
    stopped = any(word in BAD for word in value.split())
    return f"\x1b[1;{32 if stopped else 33}m{value}\x1b[0m"


def _report(facts: dict[str, str]) -> str:
    packed = facts.get("report", "")
    return gzip.decompress(base64.b64decode(packed)).decode() if packed else ""


def main() -> int:
    """Boot, lock, attack, report. 0 if everything came out as it has to."""
    parser = argparse.ArgumentParser("python -m tools.demo", description=__doc__)
    parser.add_argument("--kernel", choices=GUEST_SUITES, default="6.12", help="the guest's stock kernel")
    parser.add_argument("--native", action="store_true", help="on this machine's own KVM, which has to be ours")
    options = parser.parse_args()
    stack = Stack(options.kernel, Host.OURS, 2, userland=Userland.SYSTEMD, native=options.native)
    (scenario,) = find([SCENARIO], stack.host, stack.cpus, stack.userland)
    print(NATIVE if options.native else EMULATED)
    try:
        outcome = run(stack, [scenario], LIMIT, Progress(Narrator()))
    except UserError as error:
        print(f"demo: {error.message}\n  hint: {error.hint}", file=sys.stderr)
        return error.status
    judgement = verdict.judge(SCENARIO, scenario.expected_on(stack.host), verdict.read(outcome.verdict))
    print(f"\nThe report, as the guest's administrator sees it:\n\n{_report(dict(judgement.facts))}")
    for problem in judgement.problems:
        print(f"WRONG: {problem}")
    passed = judgement.outcome is Outcome.PASSED
    print(
        f"{'As it has to be' if passed else judgement.outcome.value}: {outcome.seconds:.0f} s, logs in {outcome.logs}"
    )
    return Exit.OK if passed else Exit.ERROR


if __name__ == "__main__":
    sys.exit(main())
