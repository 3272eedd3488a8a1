"""`ray up`, a sweep, its report and `ray down`, for real: see `local_up.py`, which does it."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
import local_up

pytestmark = pytest.mark.end_to_end


def test_from_nothing_to_a_report_and_back_to_nothing():
    if reason := local_up.missing():
        pytest.skip(reason)
    done = subprocess.run([sys.executable, local_up.__file__], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "From nothing to a report and back to nothing." in done.stdout
