"""Ray as the sweep starts it. The searcher and the actors are exercised by the end-to-end test."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, psutil, ray
from pathlib import Path
from slamlab.sweep.cluster.start import start_ray

assert start_ray()["CPU"] >= 1
ray.get(ray.remote(lambda: None).remote())  # a worker listens too
processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
session = Path(ray._private.worker._global_node.get_session_dir_path())
told = [" ".join(one.cmdline()) for one in processes] + [json.dumps(ray.nodes()), str(ray._private.state.jobs())]
told += [path.read_bytes().decode(errors="replace") for path in session.rglob("*") if path.is_file()]
connections = [connection for one in processes for connection in one.net_connections("inet")]
print(json.dumps({
    "listening": [one.laddr.ip for one in connections if one.status in ("LISTEN", "NONE")],
    "modes": [oct(folder.stat().st_mode)[-3:] for folder in session.parents],
    "told": len(told),
    "secrets": sum("hf_" + "canary" in one for one in told),  # in two: this script is in a command line itself
}))
"""


@pytest.fixture(scope="module")
def ray_alone():
    """Return what a Ray on this machine alone shows to others, with a token in the environment."""
    tokens = dict.fromkeys(("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"), "hf_canary")
    command, environment = [sys.executable, "-c", SCRIPT], {**os.environ, **tokens}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_local_ray_listens_on_loopback_only(ray_alone):
    assert len(ray_alone["listening"]) > 3  # Ray does listen: otherwise this test looks at nothing
    assert set(ray_alone["listening"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_nobody_else_enters_the_folder_of_its_sockets(ray_alone):
    assert "700" in ray_alone["modes"]  # of a parent: Ray opens its own folders to everybody


def test_tokens_are_not_in_its_command_lines_files_or_metadata(ray_alone):
    assert ray_alone["told"] > 10
    assert ray_alone["secrets"] == 0
