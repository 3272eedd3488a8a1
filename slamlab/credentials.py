"""Passwords, keys and tokens inside URLs: never in a file, a log or a sentence that SLAMLab writes.

Whatever needs a login finds it where its library looks: the environment, `~/.aws`, `hf auth login`. No option takes it.
"""

from __future__ import annotations

import re

from slamlab.errors import OptionError

_HIDDEN = "***"
_PATTERNS = (
    # user:password@ of anything but the web, where keys hold slashes: the last @ before a space ends it.
    re.compile(r"(?P<before>(?<![\w+.-])(?!https?:)[a-z][a-z0-9+.-]*://)[^\s/@:]*:\S*@", re.IGNORECASE),
    # user:password@ and token@ of the web; what follows host:port/ is a path, which may hold an @.
    re.compile(r"(?P<before>https?://)(?:[^\s/@:]*:(?!\d+/)\S*|[^\s/@]+)@", re.IGNORECASE),
    # ?token=..., &X-Amz-Signature=...
    re.compile(
        r"""(?P<before>[?&;][^=&;\s'"]*(?:token|key|secret|passw|credential|sig)[^=&;\s'"]*=)[^&;\s'"]+""",
        re.IGNORECASE,
    ),
)


def redacted(text: str) -> str:
    """Return text with what is secret in its URLs replaced by `***`."""
    for pattern in _PATTERNS:
        # A hidden password's @ stays, so that what is left still reads as a URL.
        text = pattern.sub(lambda found: found["before"] + _HIDDEN + "@" * found[0].endswith("@"), text)
    return text


def refuse_credentials(command: str) -> str:
    """Return a command line, which holds no credentials.

    Args:
        command: As it is kept with results; whoever lists processes can read it too.

    Raises:
        OptionError: It holds some.
    """
    if (shown := redacted(command)) != command:
        raise OptionError(
            "an option holds no password, key or token, as other users of the machine can read command lines",
            shown,
            "leave it to the environment, to the files of its own tool or to `hf auth login`, and replace this one",
        )
    return command
