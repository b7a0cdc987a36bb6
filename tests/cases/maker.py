# SPDX-License-Identifier: GPL-2.0-or-later
"""Change one thing of an unpacked guest: files by their path, packed or not."""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbecguard.values.codec import encode
from tests.elfmaker import ET_REL, NOTE, A, Sec, X, elf64, note

FREE_VA, FREE_PA = 0xFFFFFFFFC3000000, 0x7000000  #: executable memory that no guest of the corpus has there
BPF = b"\t[bpf]"


@dataclass(frozen=True)
class Guest:
    """A captured guest that may be changed."""

    folder: Path

    @property
    def release(self) -> str:
        """As uname -r."""
        return self.read("proc/sys/kernel/osrelease").decode().strip()

    @property
    def modules(self) -> Path:
        """The folder of its modules."""
        return self.folder / "lib/modules" / self.release

    def read(self, path: str) -> bytes:
        """A file's content."""
        packed = self.folder / f"{path}.xz"
        return lzma.decompress(packed.read_bytes()) if packed.exists() else (self.folder / path).read_bytes()

    def write(self, path: str, data: bytes | str) -> None:
        """Give a file other content; it is not packed then."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        for old in (file, file.with_name(f"{file.name}.xz")):  # which others may share
            old.unlink(missing_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)

    def lines(self, path: str, change: Callable[[bytes], bytes | None]) -> None:
        """Change a text line by line; None drops one."""
        changed = (change(line) for line in self.read(path).splitlines(keepends=True))
        self.write(path, b"".join(line for line in changed if line is not None))

    def remove(self, path: str) -> None:
        """A file, packed or not, or a folder."""
        if (self.folder / path).is_dir():
            shutil.rmtree(self.folder / path)
        else:
            (self.folder / f"{path}.xz").unlink(missing_ok=True)
            (self.folder / path).unlink(missing_ok=True)

    def mappings(self) -> list[dict[str, Any]]:
        """The executable extents."""
        return list(json.loads(self.read("execmap.json"))["mappings"])

    def map(self, mappings: list[dict[str, Any]]) -> None:
        """Other executable extents."""
        self.write("execmap.json", json.dumps({"schema": "mbecguard.execmap/1", "mappings": mappings}))

    def memory(self, **facts: object) -> None:
        """Other facts of kernel memory."""
        self.write("memory.json", json.dumps(json.loads(self.read("memory.json")) | encode(facts)))

    def add_code(self, *places: tuple[int, int], pages: int = 1) -> None:
        """Executable pages at (virtual, physical) byte addresses."""
        rows = [{"va": va, "pa": pa, "bytes": pages << 12} for va, pa in places]
        self.map(self.mappings() + rows)

    def hide_bpf(self) -> None:
        """No BPF program has a symbol."""
        self.lines("proc/kallsyms", lambda line: None if line.rstrip().endswith(BPF) else line)

    def sysctl(self, name: str, value: str) -> None:
        """Set one."""
        self.write(f"proc/sys/{name.replace('.', '/')}", f"{value}\n")

    def load_module(
        self, name: str, file: str | None, data: bytes, sections: dict[str, int], build_id: str = ""
    ) -> None:
        """A loaded module with one page of text at FREE_VA, and its file below the modules folder, if it has one."""
        if file:
            self.write(str((self.modules / file).relative_to(self.folder)), data)
        line = f"{name} 16384 0 - Live {FREE_VA:#x} (OE)\n"
        self.write("proc/modules", self.read("proc/modules") + line.encode())
        for section, va in sections.items():
            self.write(f"sys/module/{name}/sections/{section}", f"{va:#x}\n")
        if build_id:
            self.write(f"sys/module/{name}/notes/.note.gnu.build-id", note(b"GNU", 3, bytes.fromhex(build_id)))
        self.add_code((FREE_VA, FREE_PA))


def module_file(name: str, *sections: tuple[str, int], build_id: str = "", notes: Sec | None = None) -> bytes:
    """A .ko with these code sections (name, bytes)."""
    code = [Sec(section, b"\x90" * size, A | X, align=16) for section, size in sections]
    own = (
        [Sec(".note.gnu.build-id", note(b"GNU", 3, bytes.fromhex(build_id)), A, align=4, type=NOTE)] if build_id else []
    )
    info = Sec(".modinfo", b"license=GPL\0name=" + name.encode() + b"\0", A)
    return elf64([*code, *own, *([notes] if notes else []), info], ET_REL)
