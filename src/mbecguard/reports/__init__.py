# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a guest's lock, as a page for people. It needs more than the agent does, so it is imported late."""
