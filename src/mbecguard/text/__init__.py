# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel text byte by byte: what the files say it is, where the kernel patches it, and how what runs differs."""
