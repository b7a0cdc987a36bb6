# SPDX-License-Identifier: GPL-2.0-or-later
"""Which settings there are, and where their values come from."""
