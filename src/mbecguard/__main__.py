# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m mbecguard`."""

import sys

from mbecguard.face.cli import main

if __name__ == "__main__":
    sys.exit(main())
