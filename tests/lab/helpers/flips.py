# SPDX-License-Identifier: GPL-2.0-or-later
"""For the scenario `level-text`: what user space does that has the kernel switch keys, without asking for that."""

from __future__ import annotations

import socket

SO_TIMESTAMP = 29
UDP_ENCAP, UDP_ENCAP_ESPINUDP = 100, 2
IPPROTO_UDP, AF_PACKET, ALL = 17, 17, 0x0300

for _ in range(3):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stamped:
        stamped.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as encapsulating:
        encapsulating.setsockopt(IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
    socket.socket(AF_PACKET, socket.SOCK_RAW, ALL).close()
