# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host itself sees of its guests' locks: a witness who depends on nothing that a guest says."""
