# SPDX-License-Identifier: GPL-2.0-or-later
"""Many guests at once: audits that were collected as files, and what follows from them together."""
