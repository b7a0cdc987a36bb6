# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of all pages, as a browser shows them at each width, in light and dark, and on paper: to be looked at."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from mbecguard.face import cli
from mbecguard.reports import fleet_page
from mbecguard.reports.page import page
from tests import corpus
from tests.browser import PICTURES, VIEWS, browser
from tests.dossiers import DOSSIERS
from tests.fleetmaker import looked, mixed


def main() -> None:
    """Make them all."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mbecguard-pictures-") as scratch, browser() as chromium:
        for name, made in PAGES.items():
            file = PICTURES / f"{name}.html"
            file.write_text(made(Path(scratch)))
            shown = chromium.page()
            for view in VIEWS:
                shown.show(view)
                shown.open(file)
                print(shown.picture(file.with_name(f"{name}-{view.name}.png")))
            print(shown.paper(file.with_suffix(".pdf")))


def captured(scratch: Path) -> str:
    """The report of a real guest that is locked on the simulated host."""
    where = ["--guest", str(corpus.unpack("trixie-6.12-uefi", scratch)), "--host", "simulator"]
    where += ["--state-dir", str(scratch / "state"), "--cache-dir", str(scratch / "cache")]
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        cli.main(["lock", *where])
        cli.main(["audit", *where, "--format", "html", "--output", str(scratch / "page.html")])
    return (scratch / "page.html").read_text()


def fleet(scratch: Path) -> str:
    """Of guests of each kind."""
    return fleet_page.page(looked(mixed(scratch / "audits")))


#: Each page by its name, made in a scratch folder.
PAGES: dict[str, Callable[[Path], str]] = {
    "guest": captured,
    "fleet": fleet,
    **{name: lambda _, found=DOSSIERS[name]: page(found) for name in ("drift", "open", "scattered")},  # type: ignore[misc]
}

if __name__ == "__main__":
    main()
