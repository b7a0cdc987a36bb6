# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated stack: hardware with MBEC, a Debian host with our KVM, a stock Debian guest. See `python -m tests.lab`.

From the bottom: `layers` (what can be chosen), `roots` and `testmodule` (what is built, cached by content), `cpio` and
`parts`, `guestimage` and `hostimage` (what is booted), `bochs` and `plain` (who boots it), `verdict` (what came out),
`scenarios` (the tables), `run`.

The guest asks the host for scenarios and tells facts, line by line, over a virtio port (`guest/runner`, `host/agent`);
the host writes them as JSON lines to a serial port of its own, and only this side judges. A guest that panics is reset
and goes on with the next scenario. Scenarios that need another host have a `Setting`: L1 starts a guest for each, one
after the other, and loads KVM anew for it. Logs of every layer stay in the cache, folder `lab-logs`.
"""
