# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command line of QEMU says about a machine, by QEMU's own rules of what wins."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mbecguard.readiness.source import Source
from mbecguard.values.facts import Known

OFF = frozenset({"off", "no", "false", "n", "0"})
Options = dict[str, str]
Group = tuple[str, Options]

#: Options that matter here, and the name of what stands first in their value.
IMPLIED = {
    "cpu": "model",
    "machine": "type",
    "accel": "accel",
    "global": "",
    "name": "guest",
    "object": "qom-type",
    "uuid": "uuid",
    "smbios": "",
}
ALIASES = {"M": "machine"}
READ = "readconfig"  #: names a file of options
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NO_UUID = "00000000-0000-0000-0000-000000000000"  #: what a machine has that is given none


@dataclass(frozen=True, slots=True)
class Qemu:
    """A machine as its command line describes it. `unread` has files that it names and that cannot be read."""

    program: str
    name: str = ""
    uuid: str | None = None  #: in small letters, as Linux shows it to the guest
    cpu: Options = field(default_factory=dict)
    machine: Options = field(default_factory=dict)
    accelerators: tuple[Options, ...] = ()
    properties: Options = field(default_factory=dict)  #: by DRIVER.NAME
    objects: tuple[str, ...] = ()  #: their types
    unread: tuple[str, ...] = ()

    @property
    def kvm(self) -> bool:
        """Whether it asks for KVM; the program `kvm` does by itself."""
        asked = [one.get("accel", "") for one in self.accelerators] or self.machine.get("accel", "").split(":")
        return "kvm" in asked or (not any(asked) and self.program == "kvm")

    def accelerator(self, key: str) -> str:
        """A property of KVM; older QEMUs have it among those of the machine."""
        given = [one[key] for one in self.accelerators if key in one]
        return given[-1] if given else self.machine.get(key, "")

    def feature(self, name: str, models: frozenset[str]) -> bool:
        """Whether the processor shows a feature that these models have by themselves. `-NAME` wins, then `+NAME`."""
        if f"-{name}" in self.cpu or f"+{name}" in self.cpu:
            return f"-{name}" not in self.cpu
        return self.cpu[name] not in OFF if name in self.cpu else self.cpu.get("model") in models

    def has(self, property_: str) -> bool:
        """Whether a property of a device is given, and not off."""
        return self.properties.get(property_, "off") not in OFF


def parse(arguments: Sequence[str], source: Source) -> Qemu:
    """The command line of a process."""
    program, *words = arguments
    given = list(_groups(words, source))
    cpus, names = _of(given, "cpu"), _of(given, "name")
    return Qemu(
        program.rpartition("/")[2],
        names[-1].get("guest", "") if names else "",
        _uuid(given),
        cpus[-1] if cpus else {},
        _merged(_of(given, "machine")),
        tuple(_of(given, "accel")),
        _merged(map(_property, _of(given, "global"))),
        tuple(one.get("qom-type", "") for one in _of(given, "object")),
        tuple(one["path"] for one in _of(given, READ)),
    )


def _groups(words: Sequence[str], source: Source) -> Iterator[Group]:
    at = 0
    while at < len(words):
        option = ALIASES.get(words[at].lstrip("-"), words[at].lstrip("-")) if words[at].startswith("-") else ""
        value = words[at + 1] if at + 1 < len(words) else ""
        if option == "enable-kvm":
            yield "accel", {"accel": "kvm"}
        elif option == READ:
            yield from _file(value, source)
        elif option in IMPLIED:
            yield option, _pairs(value, IMPLIED[option])
        at += 1 + (option in IMPLIED or option == READ)


def _file(path: str, source: Source) -> Iterator[Group]:
    """A file of options, as Proxmox gives it: `[group "id"]`, then lines `key = "value"`. Unread: its name."""
    text = source.text(path.lstrip("/"))
    if not isinstance(text, Known):
        yield READ, {"path": path}
        return
    for group, body in re.findall(r"^\[([\w-]+)[^\]]*\]$((?:\n(?!\[).*)*)", text.value, re.MULTILINE):
        yield group, dict(re.findall(r'^\s*([\w.-]+)\s*=\s*"(.*)"\s*$', body, re.MULTILINE))


def _of(given: list[Group], group: str) -> list[Options]:
    return [options for name, options in given if name == group]


def _uuid(given: list[Group]) -> str | None:
    """By -uuid, or by the system's entry of -smbios, which QEMU reads later."""
    system = (one for one in _of(given, "smbios") if one.get("type") == "1" and "uuid" in one)
    told = (*_of(given, "uuid"), *system)
    found = told[-1].get("uuid", "").lower() if told else NO_UUID
    return found if found != NO_UUID and UUID.fullmatch(found) else None


def _merged(many: Iterator[Options] | list[Options]) -> Options:
    return {name: value for one in many for name, value in one.items()}


def _property(given: Options) -> Options:
    """`DRIVER.NAME=VALUE`, or the three apart: drivers such as cfi.pflash01 have a dot of their own."""
    if {"driver", "property", "value"} <= given.keys():
        return {f"{given['driver']}.{given['property']}": given["value"]}
    return given


def _pairs(value: str, first: str) -> Options:
    """`a,key=b` or JSON as names and values; a comma that belongs to a value is written twice."""
    if value.startswith("{"):
        return _json(value)
    words = [word.replace(",,", ",").partition("=") for word in re.split(r"(?<!,),(?!,)", value)]
    named = {_plain(name): rest if equals else "on" for name, equals, rest in words[bool(first and not words[0][1]) :]}
    return named if not first or words[0][1] else {first: words[0][0], **named}


def _plain(name: str) -> str:
    """QEMU takes _ for - in names of options, but not in those of devices."""
    return name if "." in name else name.replace("_", "-")


def _json(value: str) -> Options:
    try:
        found = json.loads(value)
    except ValueError:
        return {}
    return {str(name): str(one) for name, one in found.items()} if isinstance(found, dict) else {}
