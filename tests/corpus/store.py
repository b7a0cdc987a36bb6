# SPDX-License-Identifier: GPL-2.0-or-later
"""From a boot's full capture to the few files kept in the checkout."""

from __future__ import annotations

import io
import lzma
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from .archive import Kernel, name_of
from .cache import built, say
from .skeleton import decompressed, skeleton, vmlinux

PLAIN_LIMIT = 8192  #: bytes; larger texts are stored as .xz
SPECIAL_SYMBOLS = (
    "_text _stext _etext _end _sinittext _einittext _sdata _edata __start_rodata __end_rodata __init_begin "
    "__init_end __entry_text_start __entry_text_end __noinstr_text_start __noinstr_text_end __kprobes_text_start "
    "__kprobes_text_end __irqentry_text_start __irqentry_text_end __softirqentry_text_start "
    "__softirqentry_text_end __sched_text_start __sched_text_end __indirect_thunk_start __indirect_thunk_end "
    "__start___ex_table __stop___ex_table __bss_start __bss_stop _brk_start _brk_end real_mode_header efi_mm "
    "init_mm its_pages hv_hypercall_pg hypercall_page phys_base swapper_pg_dir init_top_pgt page_offset_base "
    "vmalloc_base vmemmap_base __pgtable_l5_enabled pgdir_shift ptrs_per_p4d srso_alias_untrain_ret "
    "srso_alias_return_thunk relocate_kernel secondary_startup_64 xen_hypercall_page ___bpf_prog_run __bpf_prog_run32"
)
KEPT_SYMBOLS = frozenset(SPECIAL_SYMBOLS.split())
THINNING = 16  #: of the other text symbols every 16th stays


def store(boot: Path, kernel: Kernel, into: Path) -> int:
    """Replace the guest's folder in the checkout; the bytes it takes."""
    say(f"storing {into.name}")
    shutil.rmtree(into, ignore_errors=True)
    built(into, lambda scratch: _store(boot, kernel, scratch))
    return sum(path.stat().st_size for path in into.rglob("*") if path.is_file())


def _store(boot: Path, kernel: Kernel, into: Path) -> None:
    facts = _facts(boot / "guest") | _facts(boot / "product")
    facts["proc/kallsyms"] = thinned(facts["proc/kallsyms"])
    facts["oracle.json"] = (boot / "oracle.json").read_bytes()
    facts["guest.json"] = (boot / "boot.json").read_bytes()
    for name, data in facts.items():
        if not name.startswith("sys/"):
            _write(into / name, data)
    (into / "boot").mkdir()
    (into / "boot" / "vmlinuz").write_bytes(skeleton(vmlinux(kernel.image.read_bytes())))
    _tar_xz(into / "sys.tar.xz", {name: data for name, data in facts.items() if name.startswith("sys/")})
    _tar_xz(into / "lib.tar.xz", dict(_modules(facts["proc/modules"].decode(), kernel)))


def _facts(capture: Path) -> dict[str, bytes]:
    """Text facts by their path, unpacked; images and modules are not among them."""
    facts = {}
    for path in capture.rglob("*"):
        name = str(path.relative_to(capture))
        if path.is_file() and not name.startswith(("boot/", "lib/")):
            data = path.read_bytes()
            facts[name.removesuffix(".xz")] = lzma.decompress(data) if path.suffix == ".xz" else data
    return facts


def thinned(kallsyms: bytes) -> bytes:
    """Symbols with an owner in brackets, the special ones, and every 16th of the other text symbols."""
    kept, others = [], 0
    for line in kallsyms.splitlines(keepends=True):
        words = line.split()
        text = len(words) == 3 and words[1] in b"tT"
        others += text
        if len(words) > 3 or words[2].decode() in KEPT_SYMBOLS or (text and others % THINNING == 0):
            kept.append(line)
    return b"".join(kept)


def _modules(modules: str, kernel: Kernel) -> Iterator[tuple[str, bytes]]:
    """(path, skeleton) of every loaded module's file; the tar packs them, `unpack` makes them .ko.xz again."""
    loaded = {line.split()[0] for line in modules.splitlines()}
    for path in kernel.modules.rglob("*.ko*"):
        if name_of(path) in loaded:
            plain = path.with_name(path.name.split(".ko")[0] + ".ko")
            yield str(plain.relative_to(kernel.folder)), skeleton(decompressed(path.read_bytes()))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if len(data) > PLAIN_LIMIT:
        path.with_name(path.name + ".xz").write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    else:
        path.write_bytes(data)


def _tar_xz(path: Path, files: dict[str, bytes]) -> None:
    """The same bytes for the same files: sorted names, no times, no owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(files[name])
            archive.addfile(entry, io.BytesIO(files[name]))
    path.write_bytes(lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME))
