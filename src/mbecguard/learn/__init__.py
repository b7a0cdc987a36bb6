# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest needs that a lock would take away, learnt by watching its boots."""
