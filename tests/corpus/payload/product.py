# SPDX-License-Identifier: GPL-2.0-or-later
"""Let the product capture the guest it runs in (`make --product`)."""

from __future__ import annotations

import sys
from pathlib import Path

from mbecguard.guest.captured import capture
from mbecguard.guest.live import live_guest

capture(live_guest(), Path(sys.argv[1]))
