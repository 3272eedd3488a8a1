"""What a browser would see of a page."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects what a browser would see: tags, ids, links, marks' meanings, text outside drawings, style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.spots: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        self.spots += [value or "" for name, value in attrs if name == "data-spots"]
        if tag not in ("meta", "link", "br", "use", "path", "rect", "image"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"svg", "style", "script", "title"} & set(self.open):
            self.text += data


def marks_of(svg: bytes) -> list[tuple[float, float]]:
    """Return where matplotlib put markers in a drawing: those of lines, of axes and of legends."""
    used = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}use")
    return [(float(one.get("x", 0)), float(one.get("y", 0))) for one in used]
