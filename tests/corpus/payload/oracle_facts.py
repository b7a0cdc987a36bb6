# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host-side oracle needs and cannot see: PTI, and the offset of mm_struct.pgd (bytes) from BTF."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

STRUCT = re.compile(r"\[(\d+)\] STRUCT '(.*?)' ")
MEMBER = re.compile(r"\t'(.*?)' type_id=(\d+) bits_offset=(\d+)")


def pgd_offset() -> int:
    """Byte offset of `pgd` in struct mm_struct, whose members sit in an anonymous struct."""
    command = ["bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "raw"]
    inner: dict[str, int] = {}
    structs: dict[str, dict[str, tuple[str, int]]] = {}
    outer, current = "", ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dump:
        for line in dump.stdout or ():
            if head := STRUCT.match(line):
                current = head[1] if head[2] in ("mm_struct", "(anon)") else ""
                outer = current if head[2] == "mm_struct" else outer
            elif line.startswith("["):
                current = ""
            elif current and (member := MEMBER.match(line)):
                structs.setdefault(current, {})[member[1]] = (member[2], int(member[3]) // 8)
    for name, (kind, offset) in structs[outer].items():
        if name == "pgd":
            return offset
        if name == "(anon)" and "pgd" in structs.get(kind, {}):
            inner[kind] = offset + structs[kind]["pgd"][1]
    return inner.popitem()[1]


def main() -> None:
    """Write facts.json into the folder given."""
    facts = {"pti": int(" pti " in Path("/proc/cpuinfo").read_text().replace("\n", " "))}
    if Path("/sys/firmware/efi/runtime-map").is_dir():
        facts["pgd_offset"] = pgd_offset()
    (Path(sys.argv[1]) / "facts.json").write_text(json.dumps(facts))


main()
