"""Scripts of this repository as modules."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def load_script(name: str) -> ModuleType:
    """Return a script as a module of its own, by its path, from the root as `sweeps/max_prune.py` or a whole one."""
    spec = spec_from_file_location(name.removesuffix(".py").replace("/", "_"), ROOT / name)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
