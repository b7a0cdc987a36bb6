# SPDX-License-Identifier: GPL-2.0-or-later
"""A host inside the agent: the protocol and the map are real, the hardware is a model. It protects nothing."""
