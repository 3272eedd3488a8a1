"""Really do what README.md says of a cluster, on this machine: `ray up`, a sweep, its report, `ray down`.

`python tests/cluster/local_up.py` takes `clusters/onprem.yaml`, says that the head is 127.0.0.1 and the worker
127.0.0.2, starts an SSH server with keys of its own, and goes on as a user would. It needs root, `unshare`, an OpenSSH
server and rsync: all of it runs in PID, mount and network namespaces of its own, where port 22 is free, nothing comes
in from outside, and `ray stop`, which ends every Ray that it sees, sees no other. Nothing is left behind.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).parents[2]
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
SWEEP = (
    "max_prune.py --address auto --profile pocket --workers 2 --family qwen --task asr --language de --tolerance 0.5 "
    "--heal-steps 2 --num-train 16 --num-selection 12 --num-test 12 --max-heals 1 --name small"
)
NAMESPACES = ["unshare", "--pid", "--fork", "--mount-proc", "--net", "--kill-child"]


def missing() -> str:
    """Return why this cannot run here, nothing where it can."""
    if SSHD is None or shutil.which("rsync") is None:
        return "needs openssh-server and rsync"
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        return "needs root, and namespaces of its own"
    return ""


def run(folder: Path, speech: Path | None) -> None:
    """Go from nothing to a report in `folder`, and back to nothing.

    Args:
        folder: New, with a short path: Ray keeps sockets in it.
        speech: A store's cache to share; None synthesises anew.
    """
    _loopback_up()
    home = _new_home(folder)
    _start_sshd(folder)
    env = {
        "HOME": str(home),
        "RAY_TMPDIR": str(folder),
        "TMPDIR": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def ray(*arguments: str) -> str:
        print("$ ray", *arguments, flush=True)
        options = {"cwd": ROOT, "env": env, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        told = []
        with subprocess.Popen(["ray", *arguments], **options) as running:
            for line in running.stdout:
                print(line, end="", flush=True)
                told.append(line)
        assert running.returncode == 0, f"ray {arguments[0]} ended with {running.returncode}"
        return "".join(told)

    config = str(_configure(folder))
    subprocess.run(["ray", "get-auth-token", "--generate"], env=env, stdout=subprocess.DEVNULL, check=True)
    ray("up", "--yes", config)
    deadline = time.monotonic() + 120
    count = "python -c \"import ray; ray.init('auto'); print(len(ray.nodes()), 'nodes')\""
    while "2 nodes" not in ray("exec", config, count):
        if time.monotonic() > deadline:
            ray("exec", config, "tail -n 100 $RAY_TMPDIR/ray/session_latest/logs/monitor.*")
            raise AssertionError("the worker did not join")
    (home / "runs").mkdir()
    if speech:
        (home / "runs" / "cache").symlink_to(speech)
    ray("exec", config, f"cd slamlab && OMP_NUM_THREADS=1 python sweeps/{SWEEP} --store ~/runs")
    ray("rsync-down", config, f"{home}/slamlab/reports/small/", str(folder / "report"))
    assert (folder / "report" / "index.html").is_file()
    ray("down", "--yes", config)
    left = [one.info["name"] for one in psutil.process_iter(["name"]) if one.info["name"] in ("gcs_server", "raylet")]
    assert not left, f"still running after ray down: {left}"


def _loopback_up() -> None:
    """Switch on the loopback device, which a new network namespace has switched off."""
    with socket.socket() as one:
        fcntl.ioctl(one, 0x8914, struct.pack("16sh22x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING


def _new_home(folder: Path) -> Path:
    """Give this user an empty home, as the namespace sees it: `ssh` and `sshd` ask the list of users, not $HOME."""
    home, user = folder / "home", pwd.getpwuid(os.getuid())
    home.mkdir()
    (home / ".profile").write_text(f"export RAY_TMPDIR={folder}\n")
    users = Path("/etc/passwd").read_text()
    (folder / "passwd").write_text(users.replace(f":{user.pw_gecos}:{user.pw_dir}:", f":{user.pw_gecos}:{home}:", 1))
    subprocess.run(["mount", "--bind", folder / "passwd", "/etc/passwd"], check=True)
    assert pwd.getpwuid(os.getuid()).pw_dir == str(home)
    return home


def _start_sshd(folder: Path) -> None:
    """Serve SSH on loopback with keys made now."""
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own, empty
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nListenAddress 127.0.0.2\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/user_key.pub\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n"
        "UsePAM no\n"
    )
    subprocess.Popen([SSHD, "-D", "-f", folder / "sshd_config"])
    deadline = time.monotonic() + 10
    while socket.socket().connect_ex(("127.0.0.1", 22)):
        assert time.monotonic() < deadline, "sshd does not answer"
        time.sleep(0.1)


def _configure(folder: Path) -> Path:
    """Write `clusters/onprem.yaml` with this machine twice, and with the packages that are installed already."""
    config = yaml.safe_load((ROOT / "clusters" / "onprem.yaml").read_text(encoding="utf-8"))
    config["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": ["127.0.0.2"]}
    config["auth"] = {"ssh_user": pwd.getpwuid(os.getuid()).pw_name, "ssh_private_key": str(folder / "user_key")}
    install, *rest = config["setup_commands"]
    assert "pip install" in install
    config["setup_commands"] = [f"ln -sfn {sys.prefix} ~/slamlab/.venv", *rest]
    # Both nodes are one machine: what the worker stopped would be the head.
    config["worker_start_ray_commands"].remove("ray stop")
    config["worker_start_ray_commands"][-1] += " --node-ip-address=127.0.0.2"
    # A node has 30 s to start, which a machine that runs other tests too may need more than once.
    *_, start = config["head_start_ray_commands"]
    config["head_start_ray_commands"] += [f"ray status || (ray stop --force; {start})"]
    config["head_start_ray_commands"][-2] += " || true"
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def main() -> None:
    """Enter the namespaces, and run there."""
    if sys.argv[1:2] != ["inside"]:
        if reason := missing():
            sys.exit(f"Not here: {reason}.")
        # A shell stays the first process there, and buries those that lose their parents.
        shell = ["bash", "-c", '"$@"; exit $?', "bash"]
        sys.exit(subprocess.run([*NAMESPACES, *shell, sys.executable, __file__, "inside", *sys.argv[1:]]).returncode)
    with tempfile.TemporaryDirectory(prefix="up", dir="/tmp") as folder:
        run(Path(folder), Path(sys.argv[2]).absolute() if sys.argv[2:] else None)
    print("From nothing to a report and back to nothing.")


if __name__ == "__main__":
    main()
