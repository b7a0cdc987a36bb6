# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent as a package installs it, with its bytecode, and a captured guest for it; means to measure both."""

from __future__ import annotations

import compileall
import json
import lzma
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from time import process_time

import mbecguard
from tests import corpus

from .sealed import seal

GUEST = "trixie-6.12-a"
ROUNDS = 7
VALGRIND = (
    "valgrind",
    "--tool=cachegrind",
    "--cache-sim=no",
    "--cachegrind-out-file=/dev/null",
    "--trace-children=yes",
)
LAUNCHER = """\
import sys
sys.path[1:1] = [{product!r}]
sys.path.append({libraries!r})
from mbecguard.face.cli import main
"""
#: What a program has imported when it ends goes to a file, as JSON.
IMPORTED = "main(sys.argv[2:])\nopen(sys.argv[1], 'w').write(repr(sorted(sys.modules)).replace(\"'\", '\"'))\n"


@dataclass
class Product:
    """The agent in a scratch folder, and the guest that it is measured with."""

    scratch: Path

    @cached_property
    def python(self) -> tuple[str, ...]:
        """The interpreter that the launcher names, if it can use our libraries; else that of this program."""
        system = Path(f"/usr/bin/python3.{sys.version_info.minor}")
        return (str(system) if system.exists() else sys.executable, "-I")

    @cached_property
    def command(self) -> tuple[str, ...]:
        """What starts the agent, as /usr/bin/mbecguard does."""
        return (*self.python, self._launcher("mbecguard", "sys.exit(main())\n"))

    @cached_property
    def sealed(self) -> tuple[str, ...]:
        """The same on this system, which is sealed as far as the agent can see."""
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        (self.scratch / "sealed").mkdir()
        played = seal(self.scratch / "sealed", boot_id)
        return (*self.python, self._launcher("sealed", f"{played}sys.exit(main())\n"))

    @property
    def sealed_state(self) -> tuple[str, ...]:
        """Option that names the state folder of that lock."""
        return ("--state-dir", str(self.scratch / "sealed/state"))

    @cached_property
    def guest(self) -> tuple[str, ...]:
        """Options that name the guest: with Debian's own files if `make corpus` has left them in its cache."""
        folder = corpus.unpack(GUEST, self.scratch)
        _unpacked(folder)
        options = ["--guest", str(folder)]
        if self.image and (modules := corpus.full_modules(GUEST)):
            options += ["--kernel-image", str(self.image), "--modules-dir", str(modules)]
        return tuple(options)

    @property
    def image(self) -> Path | None:
        """The guest's own kernel image, if it is at hand."""
        return corpus.full_image(GUEST)

    @property
    def places(self) -> tuple[str, ...]:
        """Options that name the state folder and the simulated host."""
        (self.scratch / "state").mkdir(exist_ok=True)
        return ("--host", "simulator", "--state-dir", str(self.scratch / "state"))

    @property
    def cache(self) -> tuple[str, ...]:
        """Option that names the cache."""
        return ("--cache-dir", str(self.scratch / "cache"))

    def run(self, *words: str) -> None:
        """Run a command of the agent; its answer is not looked at."""
        subprocess.run([*self.command, *words], stdout=subprocess.DEVNULL, check=True)

    def instructions(self, *words: str) -> float:
        """Millions of instructions that a command of the agent takes, in user space."""
        return instructions((*self.command, *words))

    def imports(self, *words: str) -> list[str]:
        """The modules that a command of the agent has imported when it ends."""
        told, launcher = self.scratch / "imported", self._launcher("imported", IMPORTED)
        subprocess.run([*self.python, launcher, str(told), *words], stdout=subprocess.DEVNULL, check=True)
        return list(json.loads(told.read_text()))

    def starts(self, modules: Sequence[str]) -> tuple[str, ...]:
        """A program that imports modules, and does nothing else."""
        wanted = [name for name in modules if name != "__main__"]
        code = f"import importlib\nfor name in {wanted!r}:\n    importlib.import_module(name)\n"
        return self.program("start", code)

    def program(self, name: str, code: str, *words: str) -> tuple[str, ...]:
        """A program of our own that can import the agent."""
        return (*self.python, self._launcher(name, code, main=False), *words)

    def _launcher(self, name: str, rest: str, *, main: bool = True) -> str:
        lines = LAUNCHER.format(product=str(self._installed), libraries=sysconfig.get_path("purelib"))
        path = self.scratch / f"{name}.py"
        path.write_text((lines if main else "\n".join(lines.splitlines()[:-1]) + "\n") + rest)
        return str(path)

    @cached_property
    def _installed(self) -> Path:
        target, source = self.scratch / "installed", Path(mbecguard.__file__).parent
        shutil.copytree(source, target / "mbecguard", ignore=shutil.ignore_patterns("__pycache__"))
        if self.python[0] == sys.executable:
            compileall.compile_dir(target, quiet=1)
        else:
            subprocess.run([*self.python, "-m", "compileall", "-q", str(target)], check=True)
        return target


def _unpacked(folder: Path) -> None:
    """Have a captured guest's files as a running one has them; those of modules stay packed there, too."""
    for packed in [file for file in folder.rglob("*.xz") if not file.name.endswith(".ko.xz")]:
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()


def peak(command: Sequence[str]) -> float:
    """MiB that a program has in memory at most."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return used.ru_maxrss / 1024


def instructions(command: Sequence[str]) -> float:
    """Millions of instructions that a program and its children take, in user space."""
    told = subprocess.run(
        [*VALGRIND, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True
    )
    counts = re.findall(r"I +refs: +([\d,]+)", told.stderr)
    return sum(int(count.replace(",", "")) for count in counts) / 1e6


def private(pid: int) -> float:
    """MiB that a process has written and shares with nobody: what is clean depends on who else runs the interpreter."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(count) for count in re.findall(r"Private_Dirty: +(\d+) kB", lines)) / 1024


def side_by_side(*actions: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Median seconds of CPU of each action with its children; they take turns: a busy machine slows all alike."""
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for spent, action in zip(times, actions, strict=True):
            begin = _cpu()
            action()
            spent.append(_cpu() - begin)
    return [median(spent) for spent in times]


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return process_time() + children.ru_utime + children.ru_stime
