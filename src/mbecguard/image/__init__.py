# SPDX-License-Identifier: GPL-2.0-or-later
"""What the files say: kernel images and modules on disk."""
