# SPDX-License-Identifier: GPL-2.0-or-later
"""What people see; only here is printed."""
