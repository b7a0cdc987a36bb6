# SPDX-License-Identifier: GPL-2.0-or-later
"""Captured guests with one condition each, taken from what other projects' users reported."""
