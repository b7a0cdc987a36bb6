# SPDX-License-Identifier: GPL-2.0-or-later
"""For the scenarios of level text: what user space does that has the kernel switch keys, without asking for that."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
import time
from pathlib import Path

SO_TIMESTAMP = 29
UDP_ENCAP, UDP_ENCAP_ESPINUDP = 100, 2
IPPROTO_UDP, AF_PACKET, ALL = 17, 17, 0x0300

PERF_EVENT_OPEN, BPF = 298, 321
SOFTWARE, TRACEPOINT, CPU_CLOCK, CONTEXT_SWITCHES = 1, 2, 0, 3
PROG_LOAD, PROG_ATTACH, PROG_DETACH, RAW_TRACEPOINT_OPEN, LINK_CREATE, LINK_UPDATE = 5, 8, 9, 17, 28, 29
OF_XDP, OF_CGROUP_SKB, OF_RAW_TRACEPOINT = 6, 8, 17
AT_XDP, WITHOUT_DRIVER, XDP_PASS = 37, 2, 2

libc = ctypes.CDLL(None, use_errno=True)


def sockets() -> None:
    """Time stamps, encapsulation, raw packets."""
    for _ in range(3):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stamped:
            stamped.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as encapsulating:
            encapsulating.setsockopt(IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
        socket.socket(AF_PACKET, socket.SOCK_RAW, ALL).close()


def _call(number: int, *arguments: object) -> int:
    result: int = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return result


def perf() -> None:
    """Events of the software and of tracepoints, as `perf stat` has them."""
    switch = int(Path("/sys/kernel/tracing/events/sched/sched_switch/id").read_text())
    for kind, config in ((SOFTWARE, CPU_CLOCK), (SOFTWARE, CONTEXT_SWITCHES), (TRACEPOINT, switch)) * 3:
        attributes = ctypes.create_string_buffer(struct.pack("<IIQ", kind, 64, config), 64)
        event = _call(PERF_EVENT_OPEN, attributes, 0, -1, -1, 0)
        time.sleep(0.01)
        os.close(event)


def _bpf(command: int, attributes: bytes) -> int:
    return _call(BPF, command, ctypes.create_string_buffer(attributes, 128), 128)


def _program(kind: int, returns: int = 1) -> int:
    code = ctypes.create_string_buffer(struct.pack("<BBhiBBhi", 0xB7, 0, 0, returns, 0x95, 0, 0, 0), 16)
    license_name = ctypes.create_string_buffer(b"GPL")
    places = (ctypes.addressof(code), ctypes.addressof(license_name))
    return _bpf(PROG_LOAD, struct.pack("<IIQQIIQII16s", kind, 2, *places, 0, 0, 0, 0, 0, b""))


def bpf() -> None:
    """Programs at a tracepoint and at a cgroup, attached and detached."""
    name = ctypes.create_string_buffer(b"sched_switch")
    cgroup = os.open("/sys/fs/cgroup", os.O_RDONLY)
    for _ in range(3):
        tracing, filtering = _program(OF_RAW_TRACEPOINT), _program(OF_CGROUP_SKB)
        os.close(_bpf(RAW_TRACEPOINT_OPEN, struct.pack("<QI", ctypes.addressof(name), tracing)))
        for command in (PROG_ATTACH, PROG_DETACH):
            _bpf(command, struct.pack("<IIII", cgroup, filtering, 0, 2 * (command == PROG_ATTACH)))
        os.close(tracing)
        os.close(filtering)


def _talk() -> None:
    """A packet through the loopback device."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as both:
        both.settimeout(10)
        both.bind(("127.0.0.1", 0))
        both.sendto(b"x", both.getsockname())
        both.recv(1)


def xdp() -> None:
    """Programs for packets of the loopback device, one in the place of another: each time the dispatcher changes."""
    loopback = socket.if_nametoindex("lo")
    for _ in range(3):
        first, second = _program(OF_XDP, XDP_PASS), _program(OF_XDP, XDP_PASS)
        link = _bpf(LINK_CREATE, struct.pack("<IIII", first, loopback, AT_XDP, WITHOUT_DRIVER))
        _talk()
        _bpf(LINK_UPDATE, struct.pack("<IIII", link, second, 0, 0))
        _talk()
        for descriptor in (link, first, second):
            os.close(descriptor)
        _talk()


{"sockets": sockets, "perf": perf, "bpf": bpf, "xdp": xdp}[sys.argv[1]]()
