"""Text on its way to a terminal. What came from outside (transcripts, file names, reasons) may hold control characters,
with which a terminal can be made to hide, replace or run things; here they become visible escapes such as `\\x1b`.
"""

from __future__ import annotations

import json
import re
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from slamlab.credentials import redacted

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 without tab and line feed: ESC, CR, BEL, backspace, CSI ...
    "\u2028\u2029"  # line ends that only some programs take for such
    "\u202a-\u202e\u2066-\u2069"  # overrides, embeddings and isolates of writing direction
    "\ud800-\udfff]"  # halves of a character, which cannot be encoded: bytes of file names that are no UTF-8
)


def printable(text: object) -> str:
    """Return text that a terminal shows as it is: tab and line feed stay, other control characters become escapes."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], str(text))


def one_line(text: object) -> str:
    """Return text as :func:`printable` does, on one line."""
    return printable(" ".join(str(text).split()))


def json_line(value: Any) -> str:
    """Return plain data as JSON on one line: any text comes back exactly, and no control character is in it as such."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that shows text as :func:`printable` gives it, without the credentials of URLs.

    It takes no markup unless it is asked to.

    Args:
        stderr: Whether it writes to stderr.
    """
    console = Console(stderr=stderr, soft_wrap=True, markup=False, highlight=False)
    console.push_render_hook(_Hook())
    return console


class _Printable:
    """What a console is about to show, with its text made fit to be shown."""

    def __init__(self, inner: ConsoleRenderable) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self._inner, options):
            yield Segment(text if control else printable(redacted(text)), style, control)


class _Hook(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Printable(one) for one in renderables]
