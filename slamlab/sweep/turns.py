"""Whose turn it is: the order in which the cells of a sweep are asked for a trial."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from slamlab.sweep.cells import Cell
from slamlab.sweep.ledger import CellLedger
from slamlab.sweep.settings import Request


class Turns:
    """Cells take turns: first those of which least runs, of them those without a base, then round and round.

    The round goes on after the cell whose probe began last. The ledger tells which, so that a sweep that was
    interrupted goes on as it would have. A cell that wants nothing is passed over until something is learned: however
    many cells there are, only those are asked of which it is not known what they want.

    Args:
        ledgers: What is known about each cell.
    """

    def __init__(self, ledgers: Mapping[Cell, CellLedger]) -> None:
        self._cells = list(ledgers)
        self._number = {cell: i for i, cell in enumerate(self._cells)}
        self._num_running = np.zeros(len(ledgers), dtype=int)
        self._has_base = np.array(
            [ledger.singles["base"].record is not None for ledger in ledgers.values()], dtype=bool
        )
        self._is_awake = np.ones(len(ledgers), dtype=bool)
        began = [(when, i) for i, ledger in enumerate(ledgers.values()) if (when := ledger.last_began) is not None]
        self._last = max(began)[1] if began else -1

    def order(self) -> Iterator[Cell]:
        """Yield the cells that may want something, in their turn."""
        awake = np.flatnonzero(self._is_awake)
        after = (awake - self._last - 1) % len(self._cells)
        for i in awake[np.lexsort((after, self._has_base[awake], self._num_running[awake]))].tolist():
            yield self._cells[i]

    def rotated(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return cells, of which the sweep has them in this order, in the order of the round."""
        first = next((i for i, cell in enumerate(cells) if self._number[cell] > self._last), 0)
        return [*cells[first:], *cells[:first]]

    def began(self, request: Request) -> None:
        """Note that a trial runs."""
        number = self._number[request.cell]
        self._num_running[number] += 1
        if request.is_probe:
            self._last = number

    def ended(self, request: Request) -> None:
        """Note that a trial ended."""
        number = self._number[request.cell]
        self._num_running[number] -= 1
        self._has_base[number] |= request.kind == "base"

    def rest(self, cell: Cell) -> None:
        """Note that a cell wants nothing, as far as is known now."""
        self._is_awake[self._number[cell]] = False

    def wake(self, cells: Iterable[Cell]) -> None:
        """Note that cells may want something again."""
        for cell in cells:
            self._is_awake[self._number[cell]] = True
