# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest compared with its seal: what is claimed, whether it holds, and what is locked."""
