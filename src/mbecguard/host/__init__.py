# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom we ask to drop kernel-execute."""
