# SPDX-License-Identifier: GPL-2.0-or-later
"""Who a process is, if it is still there: the kernel ends a task in which it was stopped."""

from __future__ import annotations


def process(pid: int, name: str) -> str:
    """Its program, user and parent in words; "gone" if it has ended, or another one has its number now."""
    import psutil

    try:
        found = psutil.Process(pid)
        with found.oneshot():
            if found.name()[:15] != name[:15]:
                return "gone"
            parent = found.parent()
            by = f", started by {parent.name()}[{parent.pid}]" if parent else ""
            return f"{found.exe() or 'a thread of the kernel'}, user {found.uids().real}{by}"
    except (psutil.Error, OSError):
        return "gone"
