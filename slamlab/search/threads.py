"""One thread for the search's linear algebra.

Its matrices have some hundred rows. On them more threads of BLAS wait for each other longer than they compute: a trial
took 77 ms on 2 cores and 30 ms on one (`benchmarks/orchestration.py --only scale --decoders 1 --cells 250 --trials
900`). And they take the cores of trials that run on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import scipy.linalg  # noqa: F401  # its BLAS is found once it is loaded, as numpy's is then
from threadpoolctl import ThreadpoolController

_BLAS = ThreadpoolController().select(user_api="blas")
Work = TypeVar("Work", bound=Callable[..., Any])


def on_one_thread(work: Work) -> Work:
    """Let a function compute on one thread, and leave as many as there were.

    The number is the process's: while one of its threads limits it, others do not change it (as threadpoolctl has it).
    """
    return cast(Work, _BLAS.wrap(limits=1)(work))
