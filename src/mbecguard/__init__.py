# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypervisor-enforced kernel code for stock Linux guests."""

__version__ = "0.1.0"
