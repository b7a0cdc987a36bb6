# SPDX-License-Identifier: GPL-2.0-or-later
"""For the scenario `handed-over`: what a lock at level text does with the kernel's text, without all the rest of it."""

from __future__ import annotations

from dataclasses import replace

from mbecguard.plan.policy import Level, from_settings
from mbecguard.session import Places, Session
from mbecguard.session.locking import texts
from mbecguard.settings.load import load

session = Session(load(), Places.live())
policy = replace(from_settings(session.settings), level=Level.TEXT, frozen_keys=("lsm", "mitigations"))
target, kernel = texts(session, session.look().plan, policy)
before = session.host.run_store()
session.host.hand_over(target)
after = session.host.run_store()
session.host.hand_over(kernel)
patch = session.host.run_patch()
text = session.host.text()
frozen = sum(site.frozen for site in kernel.sites)
print(
    f"store {before.value}, then {after.value}; patch {patch.value}; {len(kernel.sites)} sites, {frozen} frozen; "
    f"{text.pages if text else 0} pages"
)
