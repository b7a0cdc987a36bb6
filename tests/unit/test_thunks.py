# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of ITS thunks: the shim's C and the agent's Python agree about them, and know each form of the kernel's."""

from __future__ import annotations

import ctypes
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mbecguard.guest import kcore
from mbecguard.values.pages import PAGE_SIZE

WALK = Path(__file__).parents[2] / "hypercall-shim/walk.c"
PRELUDE = """
#include <stdbool.h>
#include <stddef.h>
typedef unsigned char u8;
#define PAGE_SIZE 4096
#define INT3_BYTE 0xcc
"""
#: its_init_thunk(): a jump by one of sixteen registers, and what FineIBT puts before it in two generations of kernels.
JUMPS = [bytes([0xFF, 0xE0 | reg, 0xCC]) for reg in range(8)]
JUMPS += [b"\x41" + jump for jump in JUMPS]
FORMS = [before + jump for before in (b"", b"\xd6\x75\xfd", b"\xea\x75\xfd") for jump in JUMPS]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The shim's function, as a library."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("walk")
    found = re.search(r"^static (bool is_thunks\(.*?^\}$)", WALK.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    (folder / "walk.c").write_text(PRELUDE + found[1])
    command = f"gcc -Wall -Wextra -Werror -shared -fPIC -o {folder}/walk.so {folder}/walk.c"
    subprocess.run(command.split(), check=True)
    loaded = ctypes.CDLL(str(folder / "walk.so"))
    loaded.is_thunks.restype = ctypes.c_bool
    return loaded


def both(walk: ctypes.CDLL, page: bytes) -> bool:
    """What C and Python say, which is the same."""
    said: bool = walk.is_thunks(page + b"\xcc" * 8)  # what follows the page is no part of it
    assert said == bool(kcore._THUNKS.fullmatch(page)), page.hex()
    return said


@pytest.mark.parametrize("form", FORMS, ids=bytes.hex)
def test_each_form_is_known_wherever_it_stands(walk: ctypes.CDLL, form: bytes) -> None:
    for at in (0, 1, 64, 2048, PAGE_SIZE - len(form)):
        assert both(walk, (b"\xcc" * at + form).ljust(PAGE_SIZE, b"\xcc"))
    for cut in range(1, len(form)):
        assert both(walk, b"\xcc" * (PAGE_SIZE - cut) + form[:cut]) == (form[cut - 1] == 0xFD)
        assert not both(walk, (form[:cut] + b"\x90").ljust(PAGE_SIZE, b"\xcc"))


def test_any_pieces_are_judged_alike(walk: ctypes.CDLL) -> None:
    rng, answers = random.Random(1), set()
    pieces = [*FORMS, b"\xcc", b"\xcc" * 40]
    wrong = [b"\x41", b"\xff", b"\xd6\x75", b"\xff\xe8\xcc", b"\xff\xd0\xcc", b"\xd6\x75\xfe", b"\x90"]
    for _ in range(300):
        parts = rng.choices(pieces, k=200)
        if rng.random() < 0.5:
            parts.insert(rng.randrange(len(parts)), rng.choice(wrong))
        answers.add(both(walk, b"".join(parts)[:PAGE_SIZE].ljust(PAGE_SIZE, b"\xcc")))
    assert answers == {True, False}
