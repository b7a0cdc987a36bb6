# SPDX-License-Identifier: GPL-2.0-or-later
"""Audits of guests that there never were, as they are collected."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mbecguard.fleet.judge import judge
from mbecguard.fleet.read import collect
from mbecguard.fleet.value import Fleet
from mbecguard.records.record import State
from mbecguard.values.codec import digest, encode
from tests.plans import make_audit

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
BUILD = "ab" * 20
MODULES = ("ext4", "virtio_net", "nft_compat")


@dataclass(frozen=True)
class Made:
    """A folder of audits."""

    folder: Path

    def put(self, name: str, **changes: Any) -> dict[str, Any]:
        """The audit of a guest: an hour old, clean, of a real seal; `changes` are of its fields."""
        audit: dict[str, Any] = encode(make_audit())
        audit |= {"time": ago(hours=1), "simulated": False, "boot_id": f"boot-{name}"}
        number = sum(map(ord, name))
        audit["subject"] |= {"hostname": name, "machine_id": f"{number:032x}", "vm_uuid": uuid(number)}
        audit["subject"] |= {"build_id": BUILD} | changes.pop("subject", {})
        modules = changes.pop("modules", MODULES)
        files = changes.pop("files", {})
        owners = [owner(module) | ({"build_id": files[module]} if module in files else {}) for module in modules]
        audit["locked"]["owners"] += owners
        audit["locked"]["content_digest"] = digest([[one["owner"], one["build_id"]] for one in owners])
        audit |= changes
        return self.write(f"{changes.get('file', name)}.json", audit)

    def host(self, *audits: dict[str, Any], name: str = "rack1", hours: float = 0.5, **changes: Any) -> None:
        """The witness of a host of these guests, who agrees; `changes` are of what it tells of each."""
        machines = [_machine(pid, audit, changes) for pid, audit in enumerate(audits, 1)]
        witness = {"schema": "mbecguard.witness/1", "time": ago(hours=hours), "host": name, "host_id": None}
        self.write(f"hosts/{name}-{hours}.json", {**witness, "release": "6.12", "machines": machines})

    def write(self, name: str, audit: dict[str, Any]) -> dict[str, Any]:
        """Have it as a file."""
        audit.pop("file", None)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(audit, indent=1))
        return audit


def _machine(pid: int, audit: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    told = {name: audit["witness"][name] for name in ("mode", "generation", "map_digest", "denied", "refused")}
    told |= {"kept_pages": 1, "denied_pages": 2, "sealed_pages": 3, "pins": [], "granted": 0, "later": "field"}
    told |= {"last": [{"vcpu": 0, "gpa": "0x1000", "va": "0x1000", "error": "0x10"}]}
    machine = {"pid": pid, "name": f"vm{pid}", "uuid": audit["subject"]["vm_uuid"], "program": "kvm"}
    state = changes.get("state", "sealed")
    return {**machine, "state": state, "told": told | {k: v for k, v in changes.items() if k != "state"}, "later": 1}


def ago(**time: float) -> str:
    """A time before now."""
    return (NOW - timedelta(**time)).isoformat(timespec="seconds")


def uuid(number: int) -> str:
    """A machine's UUID."""
    return f"00000000-0000-4000-8000-{number:012x}"


def owner(module: str) -> dict[str, Any]:
    """A module's share of what is locked."""
    return {"owner": module, "kind": "module-text", "pages": 9, "ranges": 2, "build_id": f"{len(module):040x}"}


def failing(*ids: str) -> dict[str, Any]:
    """What is different in an audit of which these claims fail."""
    claims = encode(make_audit())["claims"]
    for claim in claims:
        claim["result"] = "fail" if claim["id"] in ids else claim["result"]
    return {"claims": claims, "verdict": "fail"}


def degraded() -> dict[str, Any]:
    """What is different in an audit of a guest that lost its seal."""
    return {**failing("map-sealed"), "state": State.DEGRADED.value, "ok": False, "locked": None}


def mixed(folder: Path) -> Made:
    """One guest of each standing, two that share a machine-id, one with other modules, and a file that is cut off."""
    made = Made(folder)
    for number in range(4):
        made.put(f"web{number}")
    made.put("odd", modules=(*MODULES, "rootkit"))
    made.put("failed", **failing("cr-pinned", "no-unknown-code"), unexplained=[{}] * 3)
    made.put("lost", **degraded())
    made.put("open", verdict="not_applicable", state="open", locked=None)
    made.put("old", time=ago(days=3))
    for name in ("clone1", "clone2"):
        made.put(name, subject={"machine_id": "ef" * 16})
    (folder / "cut.json").write_text('{"schema": "mbecguard.au')
    return made


def looked(made: Made) -> Fleet:
    """What is told of it; db1 is in the inventory alone, and so is what was cut off."""
    listed = [*(path.stem for path in made.folder.iterdir()), "db1"]
    return judge(collect(made.folder), made.folder, listed, NOW, 48)
