# SPDX-License-Identifier: GPL-2.0-or-later
"""Draws docs/design.svg from the description below: `make picture`.

The picture brings its ground along, so that it can be read wherever it is shown. Sizes are pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from xml.sax.saxutils import escape

PICTURE = Path(__file__).parents[1] / "docs/design.svg"
WIDTH, HEIGHT = 956, 590
LEFT, COLUMN, BOX, TALL = 38, 150, 130, 64
LINE = 17


class Tone(StrEnum):
    """What something is, by colour."""

    GROUND = "ground"
    PANEL = "panel"
    ROOM = "room"
    BOX = "box"
    KEPT = "kept"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Colours:
    """Of one scheme: ground and border by tone, text, quiet text, and arrows."""

    tones: dict[Tone, tuple[str, str]]
    text: str
    quiet: str
    way: str
    fault: str


LIGHT = Colours(
    {
        Tone.GROUND: ("#ffffff", "none"),
        Tone.PANEL: ("#f4f6f8", "#c4ccd4"),
        Tone.ROOM: ("#e8edf2", "#c4ccd4"),
        Tone.BOX: ("#ffffff", "#6b7682"),
        Tone.KEPT: ("#dcf5e3", "#1a7f37"),
        Tone.DENIED: ("#fde6e4", "#c9303b"),
    },
    text="#1f2328",
    quiet="#505a64",
    way="#0b62c4",
    fault="#c9303b",
)
DARK = Colours(
    {
        Tone.GROUND: ("#0d1117", "none"),
        Tone.PANEL: ("#171d25", "#3a434d"),
        Tone.ROOM: ("#212a34", "#3a434d"),
        Tone.BOX: ("#0f141a", "#8b96a1"),
        Tone.KEPT: ("#12361f", "#3fb950"),
        Tone.DENIED: ("#481d20", "#f2655f"),
    },
    text="#e6edf3",
    quiet="#a9b4bf",
    way="#5aa9ff",
    fault="#ff7d76",
)


@dataclass(frozen=True, slots=True)
class Panel:
    """A place: its title stands in the upper left corner, remarks below it."""

    x: int
    y: int
    width: int
    height: int
    title: str
    tone: Tone = Tone.PANEL
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Box:
    """A part, `span` columns wide: a name, and a few words on its job."""

    column: int
    y: int
    name: str
    lines: tuple[str, ...]
    tone: Tone = Tone.BOX
    span: int = 1

    @property
    def x(self) -> int:
        """The left edge."""
        return LEFT + self.column * COLUMN

    @property
    def width(self) -> int:
        """From edge to edge."""
        return BOX + (self.span - 1) * COLUMN


@dataclass(frozen=True, slots=True)
class Arrow:
    """From point to point; `label` begins at the place that is given."""

    points: tuple[tuple[int, int], ...]
    label: str = ""
    at: tuple[int, int] = (0, 0)
    fault: bool = False


USER, KERNEL, HOST, PROCESSOR = 62, 204, 360, 502
PANELS = (
    Panel(0, 0, WIDTH, HEIGHT, "", Tone.GROUND),
    Panel(20, 14, 916, 278, "Guest: the agent in user space, and a stock Linux kernel"),
    Panel(28, 46, 900, 92, "", Tone.ROOM),
    Panel(28, 180, 900, 104, "Kernel", Tone.ROOM, ("attackers may get", "in after the lock")),
    Panel(20, 326, 916, 114, "Host: KVM with kvm-host", remarks=("Nothing in the guest", "can change a sealed map.")),
    Panel(
        20, 474, 916, 102, "Processor with MBEC", remarks=("User programs notice nothing: XU stays set everywhere.",)
    ),
)
BOXES = (
    Box(0, USER, "ELF files", ("what should be", "code")),
    Box(1, USER, "survey", ("both sources,", "as one value")),
    Box(2, USER, "plan", ("what stays code,", "and why")),
    Box(3, USER, "lock", ("apply, prove,", "pin, seal")),
    Box(4, USER, "record", ("evidence, plan,", "switches")),
    Box(5, USER, "show", ("text, JSON,", "journal")),
    Box(1, KERNEL, "page tables", ("executable now,", "and where")),
    Box(3, KERNEL, "shim", ("/dev/mbecguard,", "a small module")),
    Box(4, KERNEL, "kernel's code", ("runs as before",), Tone.KEPT),
    Box(5, KERNEL, "any other page", ("never runs in", "kernel mode"), Tone.DENIED),
    Box(2, HOST, "map of this guest", ("each page: kept or denied,", "immutable until the guest's reset"), span=2),
    Box(4, HOST, "EPT entries", ("kept XS 1 XU 1", "denied XS 0 XU 1")),
    Box(5, HOST, "denied fetch", ("counted, logged,", "made a fault"), Tone.DENIED),
    Box(
        4,
        PROCESSOR,
        "every fetch of an instruction",
        ("kernel-mode address: XS (bit 2)", "user-mode address: XU (bit 10)"),
        span=2,
    ),
)
WAY = tuple(Arrow(((x, USER + 31), (x + COLUMN - BOX, USER + 31))) for x in range(LEFT + BOX, 788, COLUMN))
ARROWS = (
    *WAY,
    Arrow(((253, KERNEL), (253, USER + TALL)), "read by the shim", (262, 163)),
    Arrow(((553, USER + TALL), (553, KERNEL)), "ioctl", (562, 163)),
    Arrow(((553, KERNEL + TALL), (553, HOST)), "hypercalls 13 and 14", (402, 313)),
    Arrow(((618, HOST + 31), (638, HOST + 31))),
    Arrow(((703, HOST + TALL), (703, PROCESSOR))),
    Arrow(((853, PROCESSOR), (853, HOST + TALL)), "XS is 0", (862, 461), fault=True),
    Arrow(((853, HOST), (853, KERNEL + TALL)), "page fault, error code 0x10", (662, 313), fault=True),
)
ABOUT = """The agent in the guest surveys ELF files and page tables, plans, locks, records and shows. To lock, it asks
the host by the shim and hypercalls. The host keeps a map and clears the supervisor-execute bit (XS) of every page that
is not kernel code. The processor asks that bit at each fetch from a kernel-mode address; a denied fetch becomes a page
fault in the guest."""


def picture() -> str:
    """The whole SVG."""
    return "\n".join(_svg()) + "\n"


def _svg() -> Iterator[str]:
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    yield "<title>mbecguard: guest, shim, host, and the way of the data</title>"
    yield f"<desc>{escape(ABOUT)}</desc>"
    yield "<style>"
    yield "text { font: 13px sans-serif } .name { font-weight: bold } path { fill: none; stroke-width: 2 }"
    yield from _style(LIGHT)
    yield "@media (prefers-color-scheme: dark) {"
    yield from _style(DARK)
    yield "}"
    yield "</style>"
    for kind in ("way", "fault"):
        yield f'<marker id="{kind}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="5" markerHeight="5" orient="auto">'
        yield f'<path class="{kind} head" d="M0 0 L8 4 L0 8 Z"/></marker>'
    for panel in PANELS:
        yield from _panel(panel)
    for box in BOXES:
        yield from _box(box)
    for arrow in ARROWS:
        yield from _arrow(arrow)
    yield "</svg>"


def _style(colours: Colours) -> Iterator[str]:
    for tone, (ground, border) in colours.tones.items():
        yield f".{tone} {{ fill: {ground}; stroke: {border} }}"
    yield f"text {{ fill: {colours.text} }} .quiet {{ fill: {colours.quiet} }}"
    for kind, colour in (("way", colours.way), ("fault", colours.fault)):
        yield f"path.{kind} {{ stroke: {colour} }} path.{kind}.head {{ fill: {colour} }}"


def _panel(panel: Panel) -> Iterator[str]:
    size = f'width="{panel.width}" height="{panel.height}"'
    yield f'<rect class="{panel.tone}" x="{panel.x}" y="{panel.y}" {size} rx="8"/>'
    if panel.title:
        yield _text(panel.x + 12, panel.y + 22, panel.title, "name")
    for number, remark in enumerate(panel.remarks):
        yield _text(panel.x + 12, panel.y + 46 + number * LINE, remark, "quiet")


def _box(box: Box) -> Iterator[str]:
    yield f'<rect class="{box.tone}" x="{box.x}" y="{box.y}" width="{box.width}" height="{TALL}" rx="5"/>'
    yield _text(box.x + 9, box.y + 18, box.name, "name")
    for number, line in enumerate(box.lines):
        yield _text(box.x + 9, box.y + 37 + number * LINE, line, "quiet")


def _arrow(arrow: Arrow) -> Iterator[str]:
    kind = "fault" if arrow.fault else "way"
    way = " L".join(f"{x} {y}" for x, y in arrow.points)
    yield f'<path class="{kind}" d="M{way}" marker-end="url(#{kind})"/>'
    if arrow.label:
        yield _text(*arrow.at, arrow.label, "quiet")


def _text(x: int, y: int, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>'


def main() -> None:
    """Write the file."""
    PICTURE.write_text(picture())


if __name__ == "__main__":
    main()
