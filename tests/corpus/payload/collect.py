# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy the text facts of this guest into a folder, laid out as under /."""

from __future__ import annotations

import sys
from pathlib import Path

PATTERNS = (
    "proc/kallsyms",
    "proc/iomem",
    "proc/modules",
    "proc/cmdline",
    "proc/version",
    "proc/cpuinfo",
    "proc/vmallocinfo",
    "proc/sys/kernel/kptr_restrict",
    "proc/sys/kernel/ftrace_enabled",
    "proc/sys/kernel/modules_disabled",
    "proc/sys/kernel/kexec_load_disabled",
    "proc/sys/kernel/osrelease",
    "proc/sys/kernel/random/boot_id",
    "proc/sys/net/core/bpf_jit_enable",
    "proc/sys/net/core/bpf_jit_harden",
    "proc/sys/net/core/bpf_jit_kallsyms",
    "sys/devices/system/cpu/possible",
    "sys/devices/system/cpu/online",
    "sys/kernel/tracing/enabled_functions",
    "sys/kernel/debug/kprobes/list",
    "sys/kernel/debug/kprobes/enabled",
    "sys/kernel/notes",
    "sys/kernel/kexec_loaded",
    "sys/kernel/kexec_crash_loaded",
    "sys/module/*/sections/*",
    "sys/module/*/sections/.*",
    "sys/module/*/notes/.note.gnu.build-id",
    "sys/module/*/coresize",
    "sys/module/*/initstate",
    "sys/module/*/refcnt",
    "sys/module/*/taint",
    "sys/firmware/efi/runtime-map/*/*",
    "sys/devices/system/cpu/vulnerabilities/*",
)


def main() -> None:
    """Copy what is readable; a fact that this kernel does not have stays absent."""
    into = Path(sys.argv[1])
    for pattern in PATTERNS:
        for fact in Path("/").glob(pattern):
            try:
                data = fact.read_bytes()
            except OSError:
                continue
            copy = into / fact.relative_to("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)


main()
