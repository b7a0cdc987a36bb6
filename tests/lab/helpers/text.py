# SPDX-License-Identifier: GPL-2.0-or-later
"""For the scenario `text`. `claim`: what the newest audit says of text; `spots`: where to overwrite it, for a shell.

Nothing that is overwritten ever runs: it is code for a crash of the kernel, and of a module that nobody uses.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mbecguard.guest.kcore import Kcore
from mbecguard.guest.procfs import Kallsyms

COLD = "native_machine_crash_shutdown"
MODULE = "ifb"
NOP5 = bytes.fromhex("0f1f440000")


def claim() -> str:
    """The result of the claim, and each place that differs; or why nobody can tell. mbectest overwrites itself."""
    audit = json.loads(Path("/run/agent.out").read_text())
    (text,) = (one for one in audit["claims"] if one["id"] == "text-unchanged")
    spots = [spot for spot in audit["changed"] if spot["owner"] != "mbectest"]
    changed = [f"{spot['owner']} {spot['symbol']} {spot['site'] or 'outside'}" for spot in spots]
    if audit["changed"] and not changed:
        return "pass"
    return "; ".join([text["result"], *(changed or ([] if text["result"] == "pass" else [text["evidence"]]))[:8]])


def size() -> str:
    """How much was compared."""
    audit = json.loads(Path("/run/agent.out").read_text())
    return next(str(one["evidence"]) for one in audit["claims"] if one["id"] == "text-unchanged")


def spots() -> str:
    """Three places with eight bytes each: the ENTRY of a function, its CODE behind, and code of a module (LOADED)."""
    symbols = Kallsyms(Path("/proc/kallsyms").read_bytes())
    function = symbols.address(COLD)
    assert function
    code = sorted(symbol.va for symbol in symbols.named("ifb_xmit") if symbol.tag == MODULE)
    with Kcore() as kcore:
        head = kcore.virtual(function, 32) or b""
        entry = function if head.startswith(NOP5) else function + 4
        places = {"ENTRY": entry, "CODE": entry + 5, "LOADED": code[0] + 9}
        words = {name: kcore.virtual(va, 8) or b"" for name, va in places.items()}
        around = kcore.virtual(places["CODE"] - 8, 96) or b""
    values = {f"{name}_WAS": int.from_bytes(word, "little") for name, word in words.items()}
    # Here, since a shell's numbers have a sign.
    values |= {f"{name}_BAD": int.from_bytes(word, "little") ^ 128 for name, word in words.items()}
    told = " ".join(f"{name}={value:#x}" for name, value in (places | values).items())
    numbers = " ".join(f"{int.from_bytes(around[at : at + 8], 'little'):#x}" for at in range(0, len(around), 8))
    return f'{told} AROUND="{numbers}"'


def lsm() -> str:
    """A patch site of a hook for security modules; empty: this kernel has none."""
    names = (f"__SCT__lsm_static_call_file_open_{number}" for number in range(2))
    symbols = Kallsyms(Path("/proc/kallsyms").read_bytes())
    return f"LSM={next((hex(va) for name in names if (va := symbols.address(name))), '')}"


print({"claim": claim, "spots": spots, "size": size, "lsm": lsm}[sys.argv[1]]())
