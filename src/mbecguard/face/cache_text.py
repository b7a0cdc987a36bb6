# SPDX-License-Identifier: GPL-2.0-or-later
"""What the cache knows, for people: values in, lines out."""

from __future__ import annotations

from collections.abc import Iterator

from mbecguard.face.look import plural
from mbecguard.guest.warm import Warmed


def warmed(answer: Warmed) -> Iterator[str]:
    """The kernels that it knows, and those that it has forgotten."""
    for kernel in answer.kernels:
        yield f"{kernel.release}: build-id {kernel.build_id}, {plural(kernel.modules, 'module')}"
    for build_id in answer.dropped:
        yield f"forgotten: build-id {build_id}, which no installed kernel has"
    if not answer.kernels:
        yield "no installed kernel could be read"
