"""Ray as a sweep joins or starts it: alone on this machine, nothing listens beyond loopback and nobody else gets in."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

import ray

from slamlab.errors import OptionError, StoreError

CALL_S = 10.0
OBJECT_STORE_BYTES = 200_000_000
"""Nothing but settings travels through Ray's object store on one machine."""


def start_ray(address: str | None = None) -> dict[str, float]:
    """Join the cluster at `address`, or start Ray on this machine alone, and return the resources there are.

    Raises:
        OptionError: No cluster answers at the address.
    """
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address is None:
            _stay_on_loopback()
            options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
            options["_temp_dir"] = str(_private_folder() / "ray")
        try:
            if address not in (None, "auto"):
                _call(address)
            ray.init(address=address or "local", **options)
        except ConnectionError:
            raise OptionError(
                "--address names a running Ray cluster", address, "start one (ray up), or leave it out"
            ) from None
    return ray.cluster_resources()


def _call(address: str) -> None:
    """Raise ConnectionError where nobody answers at HOST:PORT: Ray itself would go on asking for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CALL_S).close()
    except (OSError, OverflowError, ValueError) as error:  # nobody there, or no port
        raise ConnectionError(address) from error


def _stay_on_loopback() -> None:
    """Have Ray's own servers listen on 127.0.0.1 only, as it does on laptops; alone, it listens to every network.

    The switch is private to Ray and read from the environment at import, hence the guard; a test looks at the ports.
    """
    from ray._private import ray_constants

    if hasattr(ray_constants, "ENABLE_RAY_CLUSTER"):
        ray_constants.ENABLE_RAY_CLUSTER = False


def _private_folder() -> Path:
    """Return a folder that no other user enters: Ray lets everybody write to that of its sockets and logs.

    Raises:
        StoreError: Somebody else made it.
    """
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / f"slamlab-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "another user's")
        folder.chmod(0o700)
    except OSError as error:
        rule, remedy = "Ray's folder on this machine is one's own", "set RAY_TMPDIR to a folder of yours"
        raise StoreError(rule, f"{folder} ({error.strerror})", remedy) from None
    return folder
