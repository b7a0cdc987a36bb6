# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a host can guard its machines, and what keeps one of them from a seal."""
