"""Draw relative degradation against the fraction of decoder layers removed: the paper's Figure 2, with baselines.

At every depth a block is removed where the angular distance is least (paper), one of the deepest layers (deepest) and
one at a random start (random); each is scored as it is cut, and again after a heal. All on the selection split: curves
explore, and max_prune.py, with whose trials on the same store they share what is equal, gives the answer that is scored
on the test split. The same command goes on after any interruption.
"""

from __future__ import annotations

import shlex
import sys

from slamlab.sweep.command import sweep_app

app = sweep_app("curves", __doc__, lambda: shlex.join(["python", *sys.argv]), curves=True)

if __name__ == "__main__":
    app()
