"""Find the largest block of decoder layers that all chosen cells can lose together: one pruned backbone for all.

First every cell (task and language of one family, scale and encoder) is searched by itself, as by max_prune.py, whose
trials on the same store are not repeated. Then the block that all of them should bear is removed, and ONE model is
healed on the speech of all cells together and scored on each, until the largest block is known with which every cell
stays within the tolerance. The report names the cell that binds. Cells of several encoders, scales or families are
answered group by group, as each has a base of its own.
"""

from __future__ import annotations

import shlex
import sys

from slamlab.sweep.command import sweep_app

app = sweep_app("backbone", __doc__, lambda: shlex.join(["python", *sys.argv]), joint=True)

if __name__ == "__main__":
    app()
