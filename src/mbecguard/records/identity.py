# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose lock it was: a record that is found anywhere else can be told apart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from mbecguard import __version__
from mbecguard.guest.names import HOSTNAME, MACHINE_ID, SHIM_VERSION, VM_UUID
from mbecguard.values.facts import known, told

if TYPE_CHECKING:  # a record that is read has its identity, and no guest
    from mbecguard.guest.source import Guest

#: What is in each of the files.
_FORMS = {
    MACHINE_ID: r"[0-9a-f]{32}",
    HOSTNAME: r"(?a:[\w.-]{1,64})",
    VM_UUID: r"(?i:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})",
    SHIM_VERSION: r"(?a:[\w.+~:-]{1,64})",
}


class Identity(NamedTuple):
    """Machine, boot, kernel, and the versions of all that took part in a lock; null is what nobody could tell."""

    boot_id: str
    machine_id: str | None = None  #: of the installation: clones may share it
    hostname: str | None = None
    vm_uuid: str | None = None  #: as the hypervisor has it in its DMI tables
    release: str | None = None  #: of the kernel
    build_id: str | None = None  #: of the kernel
    agent: str = __version__  #: version
    shim: str | None = None  #: version
    host_abi: int | None = None  #: version that the host told


def identify(guest: Guest) -> Identity:
    """What the files of a guest tell; a captured one has nothing of the machine that looks at it."""
    return Identity(
        boot_id=guest.boot_id,
        machine_id=_word(guest, MACHINE_ID),
        hostname=_word(guest, HOSTNAME),
        vm_uuid=_word(guest, VM_UUID),
        shim=_word(guest, SHIM_VERSION),
    )


def _word(guest: Guest, path: str) -> str | None:
    text = known(told(lambda: guest.tree.text(path)), "").strip()
    return text if re.fullmatch(_FORMS[path], text) else None
