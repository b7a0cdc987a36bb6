# SPDX-License-Identifier: GPL-2.0-or-later
"""For the scenario `handed-over`: what a lock at level text does with the kernel's text, without all the rest of it."""

from __future__ import annotations

import time
from pathlib import Path

from mbecguard.plan.policy import Level, from_settings
from mbecguard.session import Places, Session
from mbecguard.session.locking import texts
from mbecguard.settings.load import load

#: It is unloaded later on: without a seal nothing keeps it, and its pages become somebody's memory.
GOES = ("iscsi_tcp",)

session = Session(load(), Places.live())
policy = from_settings(session.settings)._replace(level=Level.TEXT, frozen_keys=("lsm", "mitigations"))
session.room.dispatch()
plan = session.look().plan
plan = plan._replace(keep=tuple(kept for kept in plan.keep if kept.owner not in GOES))
given = texts(session, plan, policy)
target, kernel, data = given.first
(modules,) = given.modules
before = session.host.run_store()
session.host.hand_over(target)
after = session.host.run_store()
Path("/run/go").touch()  # who waits for it patches from here on
time.sleep(2)
for text in (kernel, data, modules):
    session.host.hand_over(text)
patch = session.host.run_patch()
held = session.host.text()
frozen = sum(site.frozen for site in kernel.sites)
print(
    f"store {before.value}, then {after.value}; patch {patch.value}; {len(kernel.sites)} sites, {frozen} frozen; "
    f"{data.page_count} pages of data; {len(modules.sites)} sites in {len(modules.runs)} runs of modules; "
    f"left {', '.join(given.left) or 'nothing'}; {held.pages if held else 0} pages"
)
