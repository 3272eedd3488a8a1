"""Find the largest block of decoder layers that a SpeechLLM does not need.

For every cell (family, scale, encoder, task, language): train or load the SLAM model, remove a contiguous block of
decoder layers, heal it with LoRA, score it, and search for the deepest block whose relative loss of quality stays
within the tolerance. Leaves a report in reports/NAME and the healed models in the store. The same command goes on after any
interruption; run again when finished, it computes nothing.
"""

from __future__ import annotations

import shlex
import sys

from slamlab.sweep.command import sweep_app

app = sweep_app("max_prune", __doc__, lambda: shlex.join(["python", *sys.argv]))

if __name__ == "__main__":
    app()
