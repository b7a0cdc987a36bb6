# SPDX-License-Identifier: GPL-2.0-or-later
"""What developers run: the demo and the benchmark."""
