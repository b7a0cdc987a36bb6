# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a lock, and how it is shown."""
