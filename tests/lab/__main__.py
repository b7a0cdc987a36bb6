# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's command line."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from mbecguard.values.errors import Exit, UserError
from tests.corpus.cache import cache_dir, say

from . import attacks, native, verdict
from .layers import GUEST_SUITES, HOST_SERIES, HOST_SUITES, SILENCE, Host, Stack, Userland
from .run import run
from .scenarios import SCENARIOS, find
from .verdict import Judgement, Outcome

DESCRIPTION = """Boot the whole emulated stack and judge what the guest did:
  L0 hardware with MBEC (Bochs), L1 a stock Debian host (KVM, QEMU), L2 a stock Debian guest kernel.
With --host plain the guest boots under QEMU TCG instead: no MBEC, nobody behind the hypercalls, but in seconds.
With --native it boots on this machine's own KVM, ours, on a processor with MBEC: the real thing, in seconds."""


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    epilog = f"Images, roots and logs are kept in {cache_dir()} ($MBECGUARD_CACHE)."
    parser = argparse.ArgumentParser("python -m tests.lab", formatter_class=formatter, description=DESCRIPTION)
    parser.epilog = epilog
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="the scenarios, and the hosts they are for")
    actions.add_parser("attacks", help="what is played against a sealed guest, and what has to come of it")
    go = actions.add_parser("run", help="boot once and run scenarios", formatter_class=formatter, epilog=epilog)
    go.add_argument("names", nargs="*", metavar="SCENARIO", help="default: all that the host can run")
    go.add_argument("--kernel", choices=GUEST_SUITES, default="6.12", help="the guest's stock kernel (default 6.12)")
    go.add_argument("--cpus", type=int, default=1, help="of the guest (default 1)")
    userlands = [userland.value for userland in Userland]
    go.add_argument("--guest", choices=userlands, default=Userland.MINIMAL.value, help="its user space")
    go.add_argument("--memory", type=int, default=0, metavar="MIB", help="of the guest (default: as it needs)")
    hosts = [host.value for host in Host]
    go.add_argument("--kvm", "--host", choices=hosts, default=Host.OURS.value, help="the host (default ours)")
    go.add_argument(
        "--host-kernel", choices=HOST_SUITES, default=HOST_SERIES, help=f"of the host (default {HOST_SERIES})"
    )
    go.add_argument(
        "--host-debug", action="store_true", help="build the host's kernel with KASAN and lockdep (long, once)"
    )
    go.add_argument("--host-cmdline", default="", metavar="WORDS", help="more for the host's kernel")
    go.add_argument("--limit", type=float, default=900, metavar="SECONDS", help="for the whole boot (default 900)")
    go.add_argument("--modules", type=Path, metavar="FOLDER", help="kvm.ko and kvm-intel.ko, if not from the cache")
    go.add_argument("--kvm-options", default="", metavar="WORDS", help="more options of our kvm.ko")
    go.add_argument(
        "--native", action="store_true", help="on this machine's KVM, if `mbecguard-host check` finds it ready; as root"
    )
    silence = f"of the host's clock, after which a guest that says nothing is given up (default {SILENCE})"
    go.add_argument("--silence", type=int, default=SILENCE, metavar="SECONDS", help=silence)
    return parser


def _list() -> int:
    for scenario in SCENARIOS:
        hosts = " ".join(host.value for host in Host if host in scenario.hosts)
        notes = f" ({scenario.cpus} CPUs)" * (scenario.cpus > 1) + " (only when named)" * scenario.slow
        print(f"{scenario.name:12} {hosts:17} {scenario.about}{notes}")
    return Exit.OK


def _attacks() -> int:
    print(attacks.document(), end="")
    return Exit.OK


def _show(judgement: Judgement) -> None:
    say(f"{judgement.scenario}: {judgement.outcome.value}")
    for name, value in judgement.facts:
        print(f"           {name} = {value}")
    for problem in judgement.problems:
        print(f"         ! {problem}")


def _run(options: argparse.Namespace) -> int:
    stack = Stack(
        options.kernel,
        Host(options.kvm),
        options.cpus,
        Userland(options.guest),
        options.memory,
        options.modules,
        options.kvm_options,
        options.silence,
        options.host_kernel,
        options.host_cmdline,
        options.native,
        options.host_debug,
    )
    scenarios = find(options.names, stack.host, stack.cpus, stack.userland)
    if stack.native:
        scenarios = native.possible(scenarios, named=bool(options.names))
    outcome = run(stack, scenarios, options.limit)
    told = verdict.read(outcome.verdict)
    judgements = [verdict.judge(row.name, row.expected_on(stack.host), told) for row in scenarios]
    for judgement in judgements:
        _show(judgement)
    for row in (row for row in SCENARIOS if stack.host in row.hosts and row.userland is stack.userland):
        if not options.names and (why := row.obstacle(stack.host, stack.cpus, stack.userland)):
            say(f"{row.name}: left out, {why}")
    complaints = verdict.differences(stack.facts, told.machine)
    for line in [f"the host's kernel: {line}" for line in complaints] + [
        f"no verdict: {row!r}" for row in told.garbage
    ]:
        say(line)
    if not outcome.ended:
        say(f"stopped after {options.limit:.0f} s; the logs tell how far it came")
    passed = sum(judgement.outcome is Outcome.PASSED for judgement in judgements)
    say(
        f"{stack}: {passed} of {len(judgements)} passed, {outcome.seconds:.0f} s, "
        f"{outcome.instructions / 1e6:.0f} M instructions"
    )
    whole = told.finished and not told.garbage and not complaints and passed == len(judgements)
    return Exit.OK if whole else Exit.ERROR


def main() -> int:
    """The command line."""
    # A terminated lab ends its emulator: SystemExit runs the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.ERROR))
    options = _parser().parse_args()
    try:
        return {"list": _list, "attacks": _attacks}.get(options.action, lambda: _run(options))()
    except UserError as error:
        print(f"error: {error.message}\n  hint: {error.hint}", file=sys.stderr)
        return error.status


if __name__ == "__main__":
    sys.exit(main())
