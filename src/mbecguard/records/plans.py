# SPDX-License-Identifier: GPL-2.0-or-later
"""Plans on disk: each once, under its digest. A file holds the very bytes that the digest is of, compressed."""

from __future__ import annotations

import json
import os
import zlib
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from mbecguard.plan.value import Plan
from mbecguard.records.chain import numbered
from mbecguard.records.damage import DamagedError, keep_aside, reading
from mbecguard.values.codec import canonical, decode
from mbecguard.values.files import CHANGED, LIMIT, read_own, replace_file, replace_link, sync_folder

_GZIP = 16  # zlib.h: of windowBits


class Plans(NamedTuple):
    """The folder of the plans. Beside each lies a link that leads to the newest record that names it."""

    folder: Path

    def keep(self, plan: Plan) -> None:
        """Have a plan on the disk before this returns. Raises OSError."""
        path = self._path(plan.digest)
        try:
            self.check(plan.digest)
        except DamagedError:
            if os.path.lexists(path):
                keep_aside(self.folder.parent, path)
            import gzip

            data = plan.to_json()
            del data["digest"]
            replace_file(path, gzip.compress(canonical(data), mtime=0))
            sync_folder(self.folder)

    def read(self, digest: str) -> Plan:
        """A plan. Raises DamagedError if it is gone, or not as it was written."""
        with reading(self._path(digest)):
            return decode(Plan, {**json.loads(self._content(digest)), "digest": digest})

    def check(self, digest: str) -> None:
        """Raises DamagedError as `read` does, for less work."""
        self._content(digest)

    def name(self, digest: str, record: str) -> int:
        """Note that a record names a plan. Returns the bytes that it costs: none if one did before. Raises OSError."""
        before = self.namer(digest)
        replace_link(self._link(digest), record)
        sync_folder(self.folder)
        return self.size(digest) if before is None else 0

    def namer(self, digest: str) -> int | None:
        """The number of the newest record that names a plan; None if none does."""
        try:
            return numbered(self._link(digest).readlink())
        except OSError:
            return None

    def size(self, digest: str) -> int:
        """What a plan takes on the disk, in bytes."""
        return on_disk(self._path(digest))

    def files(self) -> list[Path]:
        """Where all of them are."""
        return list(self.folder.glob("*.json.gz"))

    def drop(self, digest: str) -> None:
        """Remove a plan that no record needs. Raises OSError."""
        self._path(digest).unlink(missing_ok=True)
        self._link(digest).unlink(missing_ok=True)

    def _content(self, digest: str) -> bytes:
        with reading(self._path(digest)):
            packed = read_own(self._path(digest))
            try:
                data = zlib.decompressobj(wbits=zlib.MAX_WBITS | _GZIP).decompress(packed, LIMIT)
            except zlib.error as error:
                raise ValueError(CHANGED) from error
            if sha256(data).hexdigest() != digest:
                raise ValueError(CHANGED)
        return data

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.json.gz"

    def _link(self, digest: str) -> Path:
        return self.folder / f"{digest}.last"


def on_disk(path: Path) -> int:
    """What a file takes on a disk, in whole pages; nothing if it is not there."""
    try:
        return -(-path.lstat().st_size // 4096) * 4096
    except OSError:
        return 0
