# SPDX-License-Identifier: GPL-2.0-or-later
"""One boot of a stack, with progress on the way."""

from __future__ import annotations

from collections.abc import Callable

from tests.corpus.cache import cache_dir, require_tools, say

from . import bochs, guestimage, hostimage, native, plain, svm
from .bochs import Run
from .layers import Host, Stack
from .locks import alone
from .scenarios import Scenario

BUILD_LIMIT = 1800.0  #: seconds to wait for another build of roots and images
STACK_LIMIT = 3600.0  #: the same for another run of the same stack


def _say_line(line: str) -> None:
    say(f"  {line.strip()}")


class Progress:
    """Tells once what is new on the verdict port, line by line."""

    def __init__(self, tell: Callable[[str], None] = _say_line) -> None:
        self._tell = tell
        self._seen = 0

    def __call__(self, text: str) -> None:
        """Show the complete lines that were not there before."""
        lines = text.split("\n")[:-1]
        for line in lines[self._seen :]:
            self._tell(line)
        self._seen = len(lines)


def run(stack: Stack, scenarios: list[Scenario], limit: float, progress: Callable[[str], None] | None = None) -> Run:
    """Boot the stack once; `limit` in seconds. `progress` gets the verdict port's text as it grows."""
    require_tools()
    if stack.native:
        native.require()
    with alone(f"lab-{stack}", STACK_LIMIT):  # the logs are the stack's, and the verdict is one of them
        return _run(stack, scenarios, limit, progress or Progress())


def _run(stack: Stack, scenarios: list[Scenario], limit: float, progress: Callable[[str], None]) -> Run:
    logs = cache_dir() / "lab-logs" / str(stack)
    if stack.native or stack.host is Host.PLAIN:
        with alone("lab-build", BUILD_LIMIT):
            initrd, disk = guestimage.initrd(stack, scenarios), guestimage.disk(stack)
        say(f"{stack}: booting on this machine, at most {limit:.0f} s")
        boot = native.boot if stack.native else plain.boot
        return boot(stack, scenarios, initrd, disk, logs, limit, progress)
    if stack.host is Host.UNENFORCED:
        with alone("lab-build", BUILD_LIMIT):
            (image, initrd), disk = hostimage.initrd(stack, scenarios), guestimage.disk(stack)
        say(f"{stack}: booting under TCG with SVM, at most {limit:.0f} s")
        return svm.boot(image, initrd, svm.AT_ONCE, logs, limit, progress, stack.host_cmdline, disk)
    with alone("lab-build", BUILD_LIMIT):
        cd, disk = hostimage.boot_cd(stack, scenarios), guestimage.disk(stack)
    say(f"{stack}: booting, at most {limit:.0f} s")
    return bochs.boot(cd, disk, logs, limit, progress)
