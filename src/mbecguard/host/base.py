# SPDX-License-Identifier: GPL-2.0-or-later
"""The protocol every host speaks to the agent, whatever its ABI.

A host here is the hypervisor as seen through whatever carries our requests to it: the kernel shim on a real
guest, or the simulator. It does what it is told and reports what happened; it holds no policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import STRICT, Enum, IntEnum, IntFlag
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mbecguard.values.errors import Exit, UserError
from mbecguard.values.pages import PageRange

if TYPE_CHECKING:  # only a lock hands text over
    from mbecguard.host.text import TextObject


class Permission(IntFlag, boundary=STRICT):
    """Permissions of a page-list entry, as in the Heki RFC v2 (`include/linux/kvm_mem_attr.h`)."""

    READ = 1
    WRITE = 2
    EXEC = 4  #: fetches from supervisor-mode linear addresses
    IMMUTABLE = 8  #: may not be changed until the VM is reset


class HostErrno(IntEnum):
    """Why a host refused; hypercalls return the negative (`include/uapi/linux/kvm_para.h`)."""

    meaning: str
    advice: str

    PERM = (
        1,
        "an immutable range would change, or the caller is not in ring 0",
        "only a reset of the guest undoes a seal",
    )
    TOO_BIG = 7, "too many ranges", "keep longer runs: --set policy.tight=off; or load fewer modules before the lock"
    FAULT = 14, "it cannot read the list of ranges", "reinstall the shim; if it stays so, report it"
    INVALID = 22, "it cannot understand the list of ranges", "agent, shim and host have to be of versions that fit"
    NOT_SUPPORTED = (
        95,
        "it cannot enforce this here",
        "`mbecguard check` names what this guest shows of the cause, `mbecguard-host check` on the host the rest: a "
        "processor without MBEC (before Kaby Lake), KVM without it, VMX in the guest",
    )
    NO_HYPERCALL = (
        1000,
        "it does not know this hypercall, or its protection is off",
        "the host needs a KVM with kvm-host, and kvm.mbecguard=enforce: ask its administrator",
    )

    def __new__(cls, number: int, meaning: str = "", advice: str = "") -> HostErrno:
        """Meaning and advice, for people, belong to the number."""
        errno = int.__new__(cls, number)
        errno._value_, errno.meaning, errno.advice = number, meaning, advice
        return errno


class HostMode(Enum):
    """What the host does with a denied fetch."""

    UNKNOWN = "unknown"  #: a Heki v2 host: it has no query
    OFF = "off"
    ENFORCE = "enforce"  #: inject a fault
    AUDIT = "audit"  #: log, grant that page, go on


class Outcome(Enum):
    """What a probe saw."""

    RAN = "ran"
    DENIED = "denied"
    NO_VERDICT = "no-verdict"  #: the probe could not be carried out, or did not come back


class Protection(NamedTuple):
    """One entry of a request: these guest page frames get these permissions."""

    pages: PageRange
    permissions: Permission


class HostStatus(NamedTuple):
    """The host's answer to the query."""

    mode: HostMode
    enforced: Permission  #: the permission bits that this host enforces; the others are accepted and ignored
    generation: int  #: another one after each change of the map, a reset and a migration
    restricted: bool  #: some page is denied now
    sealed: bool  #: some page is immutable now
    abi: int | None = None  #: version of the ABI that the host speaks; None: it does not tell
    smm_open: bool = False  #: the guest can write what runs in system management mode; such a guest is not sealed


class HostDetails(NamedTuple):
    """What a host of version 2 tells beyond that, all of one moment."""

    map_digest: str  #: of the whole map, see `wire.map_digest`
    denied: int  #: fetches, since the reset
    refused: int  #: what a pin, a seal or the lack of SMRAM forbade
    pins: tuple[str, ...]  #: names of the bits that the guest cannot clear


class TextMode(IntEnum):
    """What becomes of a store to text that is none of the kernel's own patches."""

    NONE = 0  #: the host takes no text, or has none
    LOG = 1  #: it is counted, and done
    ENFORCE = 2  #: it is counted, and faults


class HostText(NamedTuple):
    """What a host of version 3 tells of text that it was given."""

    offers: TextMode
    holds: TextMode  #: the weakest of all objects; NONE: it has none
    pages: int
    digest: str  #: of what was handed over, see `text.digest_of`
    patches: int  #: stores that were accepted, since the reset
    bad: int  #: the others, refused or logged
    last_bad: int  #: GPA of the newest of those, in bytes; 0: there was none


class HostRefusedError(UserError):
    """The host answered with an error; its map is unchanged (requests are all-or-nothing)."""

    def __init__(self, errno: HostErrno, call: str) -> None:
        message = f"{call}: host answered {errno.name} ({-errno.value}): {errno.meaning}"
        super().__init__(message, errno.advice, Exit.REFUSED)
        self.errno = errno
        self.call = call


class Host(Protocol):
    """What the transaction needs from a host. Methods raise `HostRefusedError` where the host says no."""

    @property
    def name(self) -> str:
        """A short name for people: "simulator", "shim"."""
        ...

    @property
    def simulated(self) -> bool:
        """True if nothing is really protected; every report has to say so."""
        ...

    @property
    def max_pfn(self) -> int:
        """Page frames of the guest-physical space, `1 << (MAXPHYADDR - 12)`."""
        ...

    @property
    def canary_pfn(self) -> int | None:
        """Page frame of the executable page that exists to be denied; None if this host brings none."""
        ...

    def query(self) -> HostStatus:
        """Ask for mode, enforced bits and generation. Changes nothing."""
        ...

    def details(self) -> HostDetails | None:
        """Ask for the digest of the map, counts and pins; None: this host does not tell. Changes nothing."""
        ...

    def most_ranges(self) -> int:
        """How many ranges a lock's request may have."""
        ...

    def protect(self, request: Sequence[Protection]) -> None:
        """Change permissions, all or nothing; within one request the later entry wins."""
        ...

    def pin(self) -> tuple[str, ...]:
        """Have the host pin CR0.WP, CR0.PG, CR4.SMEP, and CR4.SMAP and UMIP if on, at 1 until reset; their names."""
        ...

    def pinned(self) -> bool:
        """Whether the host refuses to clear CR4.SMEP now."""
        ...

    def hold_modules(self, hold: bool) -> None:
        """Refuse (True) or allow (False) text of new modules; reversible."""
        ...

    def run_canary(self) -> Outcome:
        """Execute the canary page in supervisor mode."""
        ...

    def run_user(self, pfn: int) -> Outcome:
        """Execute a page frame through a user-mode linear address."""
        ...

    def run_kept(self, pfn: int) -> Outcome:
        """Execute (or fetch from) a kept page frame in supervisor mode."""
        ...

    @property
    def target_pfn(self) -> int | None:
        """Page frame of the page of text that exists to be written to; None if this host brings none."""
        ...

    def text(self) -> HostText | None:
        """Ask what the host holds of text; None: it knows nothing of text. Changes nothing."""
        ...

    def foreign(self) -> int:
        """Page frames of text that somebody other than the guest has written to; the host compares all of it."""
        ...

    def hand_over(self, text: TextObject) -> None:
        """Give the host a range of text with the sites of its patches; only a reset takes it back."""
        ...

    def run_patch(self) -> Outcome:
        """Have the kernel patch its own text: DENIED if that has killed who asked, NO_VERDICT if it offers no way."""
        ...

    def run_store(self) -> Outcome:
        """Write to the target page through a writable mapping: RAN if it has changed, and was put back."""
        ...
