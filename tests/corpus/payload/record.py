# SPDX-License-Identifier: GPL-2.0-or-later
"""Let the product record the guest it runs in (`make --product`)."""

from __future__ import annotations

import sys
from pathlib import Path

from mbecguard.guest.live import live_guest
from mbecguard.guest.recorded import record

record(live_guest(), Path(sys.argv[1]))
