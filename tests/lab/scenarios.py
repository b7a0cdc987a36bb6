# SPDX-License-Identifier: GPL-2.0-or-later
"""The scenarios: what the guest does, and what has to be seen. One boot runs many, in this order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mbecguard.errors import die

from .layers import Host
from .verdict import Expected

ALL_HOSTS = frozenset(Host)
OURS = frozenset({Host.OURS})
ENOSYS = "-1000"
EPERM, E2BIG, EFAULT, EINVAL = "-1", "-7", "-14", "-22"
DENIED = "trap 14 cr2 canary+0"


def _all(names: str, value: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), value)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A shell script in the words of `guest/words`, and the facts it must tell, each once."""

    name: str
    about: str
    script: str
    expect: Expected
    hosts: frozenset[Host] = OURS
    variants: Mapping[Host, Expected] = field(default_factory=dict)  #: other facts on some hosts
    slow: bool = False  #: runs only when it is named

    def expected_on(self, host: Host) -> Expected:
        """The facts that this host must show."""
        return {**self.expect, **self.variants.get(host, {})}


def _resets(times: int) -> tuple[str, Expected]:
    """Seal a page, reset, and so on; in the last stage as in the first."""
    script = f"""
        fact clean-$stage $(($(query) >> 6 & 3))
        fact canary-$stage "$(t run 7) $(protect "$(t canary 7)" $((RW | IMMUTABLE))) $(t run 7)"
        [ "$stage" -gt {times} ] || reset
        """
    stages = range(1, times + 2)
    sealed = {f"canary-{stage}": f"ran 0 {DENIED}" for stage in stages}
    return script, sealed | {f"clean-{stage}": "0" for stage in stages if stage > 1}


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "query",
        "the guest boots and the query answers; a host without support says so",
        """
        fact answer "$(query)"
        fact empty "$(t hypercall 14 0 0)"
        fact unknown "$(t hypercall 4242 0 0)"
        fact from-user "$(usertool hypercall 14 0 0 || echo killed)"
        """,
        {"answer": re.compile("[1-9][0-9]*"), "empty": "0", "unknown": ENOSYS, "from-user": EPERM},
        ALL_HOSTS,
        {
            Host.STOCK: {"answer": ENOSYS, "empty": ENOSYS},
            Host.PLAIN: _all("answer empty unknown", "trap 6") | {"from-user": "killed"},
        },
    ),
    Scenario(
        "tools",
        "as long as nothing is denied, everything that the test module tries runs",
        """
        fact canaries "$(t run 0) $(t run 7)"
        fact everywhere "$(everywhere run 3)"
        fact user "$(usertool run 1)"
        fact thread "$(t oops 2)"
        fact block "$(t huge_run 0) $(t huge_run 511)"
        fact smep "$(everywhere clear_cr 4 $SMEP)"
        fact wp "$(everywhere clear_cr 0 $WP)"
        """,
        _all("everywhere user thread", "ran") | _all("canaries block", "ran ran") | _all("smep wp", "cleared"),
        ALL_HOSTS,
    ),
    Scenario(
        "canary",
        "a denied page faults in kernel mode alone, and runs again when granted back",
        """
        pa=$(t canary 0)
        fact before "$(t run 0)"
        fact deny "$(protect "$pa" $RW)"
        fact denied "$(t run 0)"
        fact everywhere "$(everywhere run 0)"
        fact user "$(usertool run 0)"
        fact neighbour "$(t run 1)"
        fact equal "$(protect "$pa" $RW)"
        fact grant "$(protect "$pa" $RWX)"
        fact granted "$(everywhere run 0)"
        """,
        {
            "before": "ran",
            "deny": "0",
            "denied": DENIED,
            "everywhere": DENIED,
            "user": "ran",
            "neighbour": "ran",
            "equal": "0",
            "grant": "0",
            "granted": "ran",
        },
    ),
    Scenario(
        "malformed",
        "lists that break the contract get its errors, and the map stays as it was",
        """
        pa=$(t canary 1)
        protect "$pa" $RW >/dev/null
        before=$(query)
        end=$((pa + 4096))
        fact list-unaligned "$(t hypercall 14 $(($(t page 0) + 8)) 0)"
        fact list-in-mmio "$(t hypercall 14 0xfeb00000 0)"
        fact list-in-hole "$(t hypercall 14 $HOLE 0)"
        fact list-beyond "$(t hypercall 14 0xfffffffffffff000 0)"
        refused pa-unaligned $((pa + 1)) $end $RWX
        refused epa-unaligned "$pa" $((end + 8)) $RWX
        refused empty "$pa" "$pa" $RWX
        refused inverted $end "$pa" $RWX
        refused beyond 0 $((1 << 52)) $RWX
        refused no-bits "$pa" $end 0
        refused unknown-bit "$pa" $end 23
        refused high-bit "$pa" $end 0x8000000000000007
        for count in 0 170 0x100000000 0xffffffffffffffff; do
            t wipe
            t entry 0 "$pa" $end $RWX
            t set 0 2 $count
            fact npages-$count "$(send)"
        done
        t wipe
        t entry 0 "$pa" $end $RWX
        t set 0 1 "$(t page 0)"
        fact cycle "$(send)"
        t entry 1 "$pa" $end $RWX
        t set 0 1 "$(t page 1)"
        t set 1 1 "$(t page 0)"
        fact cycle-of-two "$(send)"
        t set 1 1 $(($(t page 0) + 8))
        fact next-unaligned "$(send)"
        t set 1 1 $HOLE
        fact next-in-hole "$(send)"
        t wipe
        t entry 0 "$pa" $end $RWX
        t entry 0 "$pa" $end 0
        fact last-of-two "$(send)"
        fact unchanged "$([ "$(query)" = "$before" ] && echo yes || echo "$before $(query)")"
        fact denied "$(t run 1)"
        """,
        _all("list-unaligned pa-unaligned epa-unaligned empty inverted beyond no-bits unknown-bit high-bit", EINVAL)
        | _all("npages-0 npages-170 npages-0x100000000 npages-0xffffffffffffffff", EINVAL)
        | _all("next-unaligned last-of-two", EINVAL)
        | _all("list-in-mmio list-in-hole list-beyond next-in-hole", EFAULT)
        | _all("cycle cycle-of-two", E2BIG)
        | {"unchanged": "yes", "denied": DENIED},
    ),
    Scenario(
        "order",
        "inside one list the later range wins; 3000 ranges fit one request, 33 pages do not",
        """
        pa=$(t canary 2)
        t wipe
        t entry 0 "$pa" $((pa + 4096)) $RW
        t entry 0 "$pa" $((pa + 4096)) $RWX
        fact allowed-last "$(send) $(t run 2)"
        t wipe
        t entry 0 "$pa" $((pa + 4096)) $RWX
        t entry 0 "$pa" $((pa + 4096)) $RW
        fact denied-last "$(send) $(t run 2)"
        fact granted "$(protect "$pa" $RWX) $(t run 2)"
        t many 3000 $HOLE 0x2000 0x1000 $RW
        fact ranges-3000 "$(send)"
        fact instructions-3000 "$(t cost)"
        t many 5408 $HOLE 0x2000 0x1000 $RW
        fact pages-32 "$(send)"
        t many 5409 $HOLE 0x2000 0x1000 $RWX
        fact pages-33 "$(send)"
        t many 5408 $((HOLE + 0x10000000)) 0x2000 0x1000 $RW
        fact boundaries-21632 "$(send)"
        fact wiped "$(protect $HOLE $RWX 65536)"
        """,
        {
            "allowed-last": "0 ran",
            "denied-last": f"0 {DENIED}",
            "granted": "0 ran",
            "ranges-3000": "0",
            "pages-32": "0",
            "pages-33": E2BIG,
            "boundaries-21632": E2BIG,
            "wiped": "0",
        },
    ),
    Scenario(
        "huge",
        "4 KiB denied inside 2 MiB are denied, and a uniform 2 MiB region stays one EPT entry",
        """
        echo 0 >/proc/sys/kernel/panic_on_oops
        pa=$(t huge)
        fact runs "$(t huge_run 0) $(t huge_run 511)"
        before=$(counted pages_2m)
        fact one "$(protect $((pa + 4096 * 7)) $RW)"
        fact around "$(t huge_run 6) $(t huge_run 8)"
        fact inside "$(t huge_run 7)"
        fact split $((before - $(counted pages_2m)))
        fact every "$(protect "$pa" $RW 512)"
        fact last "$(t huge_run 511)"
        t huge_touch
        fact uniform $((before - $(counted pages_2m)))
        fact granted "$(protect "$pa" $RWX 512) $(t huge_run 7)"
        fact whole $((before - $(counted pages_2m)))
        echo 1 >/proc/sys/kernel/panic_on_oops
        """,
        {
            "runs": "ran ran",
            "one": "0",
            "around": "ran ran",
            "inside": "died",
            "split": "1",
            "every": "0",
            "last": "died",
            "uniform": "0",
            "granted": "0 ran",
            "whole": "0",
        },
    ),
    Scenario(
        "race",
        "while one CPU runs a page, another denies and grants it: nothing runs once a denial has returned",
        """
        fact rounds "$(t race 6 300)"
        """,
        {"rounds": re.compile("ran [1-9][0-9]* denied [1-9][0-9]* late 0")},
    ),
    Scenario(
        "oops",
        "a fetch that nothing catches is a clean oops with the right address and error code 0x10",
        """
        echo 0 >/proc/sys/kernel/panic_on_oops
        protect "$(t canary 3)" $RW >/dev/null
        dmesg -c >/dev/null
        fact thread "$(t oops 3)"
        fact fetch "$(dmesg | grep -c '#PF: supervisor instruction fetch in kernel mode')"
        fact code "$(dmesg | grep -c '#PF: error_code(0x0010)')"
        fact rip "$(dmesg | grep -o 'RIP: 0010:canary_3+0x4' | head -1)"
        fact address "$(dmesg | sed -n 's/.*page fault for address: //p' | head -1)"
        fact granted "$(protect "$(t canary 3)" $RWX) $(t run 3)"
        echo 1 >/proc/sys/kernel/panic_on_oops
        """,
        {
            "thread": "died",
            "fetch": "1",
            "code": "1",
            "rip": "RIP: 0010:canary_3+0x4",
            "address": re.compile("[0-9a-f]+004"),
            "granted": "0 ran",
        },
    ),
    Scenario(
        "seal",
        "an immutable page answers EPERM to every change, 0 to an equal request; SMEP cannot be cleared any more",
        """
        pa=$(t canary 4) other=$(t canary 5)
        fact smep-before "$(everywhere clear_cr 4 $SMEP)"
        fact seal "$(protect "$pa" $((RW | IMMUTABLE)))"
        fact denied "$(t run 4)"
        fact user "$(usertool run 4)"
        fact equal "$(protect "$pa" $((RW | IMMUTABLE)))"
        fact grant "$(protect "$pa" $RWX)"
        fact grant-immutable "$(protect "$pa" $((RWX | IMMUTABLE)))"
        fact loosen "$(protect "$pa" $RW)"
        t wipe
        t entry 0 "$other" $((other + 4096)) $RW
        t entry 0 "$pa" $((pa + 4096)) $RWX
        fact mixed "$(send) $(t run 5)"
        fact still-denied "$(everywhere run 4)"
        fact smep-after "$(everywhere clear_cr 4 $SMEP)"
        fact pin "$(t hypercall 13 4 $SMEP) $(t hypercall 13 0 $WP)"
        fact wp-after-pin "$(everywhere clear_cr 0 $WP)"
        """,
        {
            "smep-before": "cleared",
            "seal": "0",
            "denied": DENIED,
            "user": "ran",
            "equal": "0",
            "grant": EPERM,
            "grant-immutable": EPERM,
            "loosen": EPERM,
            "mixed": f"{EPERM} ran",
            "still-denied": DENIED,
            "smep-after": "trap 13",
            "pin": "0 0",
            "wp-after-pin": "trap 13",
        },
    ),
    Scenario(
        "fuzz",
        "100 000 random hypercalls leave guest and host alive, and the host's memory where it was",
        """
        free() { host run 'grep MemAvailable /proc/meminfo' | tr -dc 0-9; }
        before=$(free)
        fact calls "$(t fuzz 1 100000)"
        grown=$(((before - $(free)) / 1024))
        fact grown-mib $grown
        fact bounded "$([ $grown -lt 16 ] && echo yes)"
        pa=$(t canary 6)
        fact alive "$(t run 6) $(protect "$pa" $RW) $(t run 6) $(protect "$pa" $RWX) $(t run 6)"
        """,
        {
            "calls": re.compile("accepted [1-9][0-9]* refused [1-9][0-9]* trapped 0"),
            "bounded": "yes",
            "alive": f"ran 0 {DENIED} 0 ran",
        },
    ),
    Scenario("reset", "after a reset the next kernel boots, and nothing of the sealed map is left", *_resets(1)),
    Scenario("resets", "the same, ten times in a row", *_resets(10), slow=True),
)


def find(names: list[str], host: Host) -> list[Scenario]:
    """The scenarios named, in the table's order; when none is, all that the host can run and that are not slow."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    if unknown := sorted(set(names) - set(known)):
        die(f"no such scenario: {', '.join(unknown)}", hint="python -m tests.lab list")
    if wrong := sorted(name for name in names if host not in known[name].hosts):
        die(f"not for {host.value}: {', '.join(wrong)}", hint="python -m tests.lab list shows each one's hosts")
    return [row for row in SCENARIOS if host in row.hosts and (row.name in names or not (names or row.slow))]
