# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture of the design: it is the one that its description makes, and it can be read in both colour schemes."""

from __future__ import annotations

from itertools import product
from xml.etree import ElementTree

import pytest

from tools.picture import BOXES, DARK, HEIGHT, LIGHT, PANELS, PICTURE, TALL, WIDTH, Colours, Tone, picture

LEGIBLE = 4.5  #: contrast of text, WCAG 2.1 level AA
VISIBLE = 3.0  #: of lines
each_scheme = pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, by WCAG 2.1."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_the_file_is_made_from_its_description() -> None:
    assert PICTURE.read_text() == picture(), "run `make picture`"


def test_it_is_well_formed_and_says_what_it_shows() -> None:
    top = ElementTree.fromstring(picture())
    told = {element.tag.partition("}")[2]: element.text for element in top}
    assert told["title"]
    assert told["desc"]


@each_scheme
def test_text_is_legible_on_every_ground(colours: Colours) -> None:
    grounds = [ground for ground, _ in colours.tones.values()]
    assert min(contrast(text, ground) for text, ground in product((colours.text, colours.quiet), grounds)) >= LEGIBLE


@each_scheme
def test_arrows_are_visible(colours: Colours) -> None:
    grounds = [colours.tones[tone][0] for tone in (Tone.GROUND, Tone.PANEL, Tone.ROOM)]
    assert min(contrast(line, ground) for line, ground in product((colours.way, colours.fault), grounds)) >= VISIBLE


def test_everything_lies_within_and_no_box_on_another() -> None:
    places = [(box.x, box.y, box.x + box.width, box.y + TALL) for box in BOXES]
    for left, top, right, bottom in (*places, *((p.x, p.y, p.x + p.width, p.y + p.height) for p in PANELS)):
        assert 0 <= left < right <= WIDTH
        assert 0 <= top < bottom <= HEIGHT
    for one, other in product(places, places):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart or one is other
