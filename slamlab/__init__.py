"""SLAMLab: how many decoder layers a SpeechLLM does not need, and the smaller model.

`slamlab.load(folder)` gives back a SLAM model that a sweep or `sweeps/train_base.py` wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slamlab.model.slam import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import `load` when it is first asked for: reports and scoring must not need torch."""
    if name == "load":
        from slamlab.model.slam import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
