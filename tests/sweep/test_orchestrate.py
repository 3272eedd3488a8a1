"""Ray as the sweep starts it. The searcher and the actors are exercised by the end-to-end test."""

import subprocess
import sys

SCRIPT = """
import psutil, ray
from slamlab.sweep.orchestrate import start_ray

assert start_ray()["CPU"] >= 1
ray.get(ray.remote(lambda: None).remote())  # a worker listens too
processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
listening = [(one.name(), c.laddr.ip) for one in processes for c in one.net_connections("tcp") if c.status == "LISTEN"]
print(len(listening), [entry for entry in listening if entry[1] not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")])
"""


def test_a_local_ray_listens_on_loopback_only():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True)
    num_listening, elsewhere = done.stdout.split(maxsplit=1)
    assert int(num_listening) > 3  # Ray does listen: otherwise this test looks at nothing
    assert elsewhere.strip() == "[]"
