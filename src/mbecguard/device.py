# SPDX-License-Identifier: GPL-2.0-or-later
"""The shim's device, call by call: `hypercall-shim/mbecguard.h` in Python. Mechanism, no judgement.

Addresses and lengths are bytes. Guests import this room as well: the shim also reads the page tables.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import IntEnum, IntFlag
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mbecguard.values.errors import Exit, UserError, die

DEVICE = Path("/dev/mbecguard")
MODULES_DISABLED = Path("/proc/sys/kernel/modules_disabled")
MAX_RANGES = 43264
ABI = 3
MAX_TEXT_PAGES, TEXT_LINKS = 1024, 24
MAPPINGS_CONTENT = 1
CANARY_VALUE = 0x4D42

_READ_WRITE, _WRITE = 3, 1  # _IOC_DIR, include/uapi/asm-generic/ioctl.h
_MAPPING = struct.Struct("<QQQII")
_ROOM = 2048  # mappings fetched by one call
_OTHER_VERSION = "install agent and shim of the same version, and load the new module after a reboot"

Ioctl = Callable[[int, bytearray], object]  #: (request, structure): changes the structure, or raises OSError


class InfoFlag(IntFlag):
    """State of the shim."""

    KVM = 1  #: hypercalls reach KVM
    OFF = 2  #: switched off on the command line
    HELD = 4  #: new modules are refused
    SEALED = 8  #: an immutable range was accepted


class MapFlag(IntFlag):
    """What an executable leaf is; the last two are only told if content is asked for."""

    WRITABLE = 1
    USER = 2
    INT3 = 4  #: holds nothing but int3
    THUNKS = 8  #: holds nothing but int3 and `jmp *%reg`


class ProbeKind(IntEnum):
    """What a probe tries in kernel mode."""

    CANARY = 0  #: run the canary page
    FETCH = 1  #: run one RET in the page at `va`
    CLEAR = 2  #: clear bits of a control register
    STORE = 3  #: write to the target page


class Seen(IntEnum):
    """How a probe came out."""

    RAN = 0
    TRAPPED = 1
    LOOPED = 2
    UNCHANGED = 3
    UNSUITABLE = 4


class Call(NamedTuple):
    """One ioctl: a name for people, its number, its structure (the first field is the size), its direction."""

    name: str
    number: int
    layout: struct.Struct
    direction: int = _READ_WRITE

    @property
    def request(self) -> int:
        """The number as ioctl() takes it."""
        return self.direction << 30 | self.layout.size << 16 | ord("m") << 8 | self.number


INFO = Call("info", 0xE0, struct.Struct("<4I4Q16s"))
MAPPINGS = Call("mappings", 0xE1, struct.Struct("<2I2Q2I"))
MAX_WORD = 255  #: of the extended query
QUERY = Call("query", 0xE2, struct.Struct("<2Iq"))
PROTECT = Call("protect", 0xE3, struct.Struct("<2IQq"))
PIN = Call("pin", 0xE4, struct.Struct("<2IQq"))
PROBE = Call("probe", 0xE5, struct.Struct("<2IQ2I2Q2I"))
HOLD = Call("hold", 0xE6, struct.Struct("<2I"), _WRITE)
TEXT = Call("text", 0xE7, struct.Struct("<2IQq"))


class Info(NamedTuple):
    """What the shim says of itself and of the machine; see the header."""

    flags: InfoFlag
    physical_bits: int
    canary_pa: int
    target_pa: int
    page_offset: int
    refused_modules: int
    hypervisor: str  #: signature, empty on bare metal


class ShimMapping(NamedTuple):
    """An executable extent of the kernel's page tables."""

    va: int
    pa: int
    bytes: int
    flags: MapFlag


class Sight(NamedTuple):
    """What a probe saw; `trap` and `cr2` are those of the exception, if it trapped; `va` is where it was tried."""

    seen: Seen
    trap: int
    cr2: int
    va: int = 0


class ShimError(UserError):
    """An ioctl failed; no hypercall was made."""

    def __init__(self, call: str, error: OSError) -> None:
        message, hint, status = _reasons(error)
        super().__init__(f"{DEVICE}: {call}: {message}", hint, status)
        self.errno = error.errno


def _reasons(error: OSError) -> tuple[str, str, Exit]:
    if error.errno == errno.EPERM:
        return "the shim is switched off, or this is not root", "boot without mbecguard=off", Exit.REFUSED
    if error.errno == errno.EOPNOTSUPP:
        return "the hypervisor is not KVM", "only KVM has the hypercalls", Exit.REFUSED
    if error.errno == errno.EBUSY:
        return "the guest is sealed", "only a reset of the guest undoes a seal", Exit.REFUSED
    return str(error.strerror), _OTHER_VERSION, Exit.ERROR


class ShimDevice:
    """The open device, which it closes; a context manager. Methods raise ShimError where the shim refuses."""

    def __init__(self, fd: int, ioctl: Ioctl | None = None) -> None:
        self._fd = fd
        self._ioctl = ioctl or partial(fcntl.ioctl, fd)
        # Also when nobody holds it any more: a daemon that loads its settings again drops it.
        self._close = weakref.finalize(self, os.close, fd)

    def __enter__(self) -> ShimDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def info(self) -> Info:
        """State of shim and machine; dies if the shim is of another version than this agent."""
        try:
            _, abi, flags, bits, canary, target, offset, refused, name = self._exchange(INFO, *[0] * 7, b"")
        except ShimError as error:
            # A newer shim refuses our shorter structure, or does not know its number.
            if error.errno in (errno.EINVAL, errno.E2BIG, errno.ENOTTY):
                die(f"{DEVICE} is that of another version: {error.message}", _OTHER_VERSION, Exit.REFUSED)
            raise
        if abi != ABI:
            die(f"the shim speaks version {abi} of its interface, the agent {ABI}", _OTHER_VERSION, Exit.REFUSED)
        signature = name.rstrip(b"\0").decode("ascii", "replace")
        return Info(InfoFlag(flags), bits, canary, target, offset, refused, signature)

    def mappings(self, *, content: bool) -> Iterator[ShimMapping]:
        """Executable extents of the kernel half, by address; `content` also tells INT3 and THUNKS."""
        room = array("B", bytes(_ROOM * _MAPPING.size))
        following, va = 0, -1
        while following > va:
            va = following
            _, _, following, _, count, _ = self._exchange(MAPPINGS, int(content), va, room.buffer_info()[0], _ROOM, 0)
            for first, pa, size, flags, _ in _MAPPING.iter_unpack(room.tobytes()[: count * _MAPPING.size]):
                yield ShimMapping(first, pa, size, MapFlag(flags))
        if following:
            die(f"{DEVICE}: mappings: it goes on at {following:#x} after {va:#x}", _OTHER_VERSION)

    def query(self, word: int = 0) -> int:
        """The host's answer to the query, or to word `word` of the extended one."""
        return int(self._exchange(QUERY, word, 0)[-1])

    def protect(self, ranges: Sequence[tuple[int, int, int]]) -> int:
        """The host's answer to one request of (first byte, byte after the last, permissions); at most MAX_RANGES."""
        flat = array("Q", (number for entry in ranges for number in entry))
        return int(self._exchange(PROTECT, len(ranges), flat.buffer_info()[0], 0)[-1])

    def text(self, pages: Sequence[bytes]) -> int:
        """The host's answer to list pages that hand text over; at most MAX_TEXT_PAGES."""
        room = array("B", b"".join(pages))
        return int(self._exchange(TEXT, len(pages), room.buffer_info()[0], 0)[-1])

    def pin(self, cr: int, bits: int) -> int:
        """The host's answer to the request to pin bits of CR0 or CR4 at 1."""
        return int(self._exchange(PIN, cr, bits, 0)[-1])

    def probe(self, kind: ProbeKind, *, va: int = 0, cr: int = 0, bits: int = 0) -> Sight:
        """Try something on the CPU that this runs on."""
        _, _, where, _, outcome, _, cr2, trap, _ = self._exchange(PROBE, kind, va, cr, 0, bits, 0, 0, 0)
        return Sight(Seen(outcome), trap, cr2, where)

    def hold(self, held: bool) -> None:
        """Refuse or allow text of new modules."""
        self._exchange(HOLD, int(held))

    def call_canary(self) -> int:
        """Run the canary's page frame as user code in this process, and return what it returns.

        Raises OSError if it cannot be mapped; where the host denies user code, the process may die or hang.
        """
        import ctypes  # few processes do

        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        page = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_SHARED, self._fd, 0)
        if page == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        return int(ctypes.CFUNCTYPE(ctypes.c_int)(page)())

    def _exchange(self, call: Call, *fields: object) -> tuple[Any, ...]:
        structure = bytearray(call.layout.pack(call.layout.size, *fields))
        while True:
            try:
                self._ioctl(call.request, structure)
            except InterruptedError:  # no hypercall was made; a Python signal handler has run by now
                continue
            except OSError as error:
                raise ShimError(call.name, error) from error
            return call.layout.unpack(structure)


def open_device(path: Path = DEVICE) -> ShimDevice:
    """Open the shim's device; dies if the module is not loaded or we may not."""
    try:
        return ShimDevice(os.open(path, os.O_RDWR))
    except (FileNotFoundError, NotADirectoryError):
        _missing(path)
    except PermissionError:
        die(f"{path} may not be opened", "run as root, outside of containers")
    except OSError as error:
        die(f"{path} cannot be opened: {error.strerror}", "modprobe mbecguard_shim, and look into the kernel's log")


def _missing(path: Path) -> NoReturn:
    """Die of a shim that is not loaded; the kernel may refuse all modules already."""
    shut, hint = "", "modprobe mbecguard_shim (package mbecguard-shim-dkms)"
    with suppress(OSError):
        if MODULES_DISABLED.read_text().strip() == "1":
            shut = ", and kernel.modules_disabled = 1 lets no module in until the next boot"
            hint = "find out who sets it (`grep -rs modules_disabled /etc/sysctl* /run/sysctl.d /usr/lib/sysctl.d`); "
            hint += "at boot the shim has to be loaded before that: list it in /etc/modules-load.d"
    die(f"no host interface: {path} is missing{shut}", f"{hint}; --host simulator tries all without it", Exit.REFUSED)
