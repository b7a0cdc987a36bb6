# SPDX-License-Identifier: GPL-2.0-or-later
"""What may stay executable, and why."""
