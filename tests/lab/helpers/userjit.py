# SPDX-License-Identifier: GPL-2.0-or-later
"""Code made at run time in user space: written, mapped executable, run."""

import ctypes
import mmap

CODE = b"\xf3\x0f\x1e\xfa\xb8\x39\x05\x00\x00\xc3"  # endbr64; mov eax, 1337; ret

for _ in range(50):
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(CODE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CFUNCTYPE(ctypes.c_int)(address)() == 1337
