"""A store at a URL that fsspec opens (`s3://`, `gs://` ...): what is finished goes there, what is wanted comes back.

A process works in a folder of its machine (:attr:`Remote.folder`), which holds what it made or fetched. Objects appear
whole or not at all; a folder's manifest is sent last, so that a folder without one is half-written, and not there.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from slamlab.credentials import redacted
from slamlab.disk import whole_file
from slamlab.errors import StoreError
from slamlab.sweep.integrity import KEPT, MANIFEST, folder_problem, read_manifest
from slamlab.sweep.patience import patiently

EXTRAS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
"""Object stores, and the package that fsspec opens each with."""
NUM_AT_ONCE = 16
NEVER_AWAY = (
    FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError,
    ImportError, LookupError, TypeError, ValueError, AttributeError,
)  # fmt: skip
"""What an object store answers, or a mistake is, that waiting does not change."""
Result = TypeVar("Result")


def is_url(address: Path | str) -> bool:
    """Say whether an address is a URL, not a folder."""
    return "://" in str(address)


class Remote:
    """The store at a URL, and the folder of this machine that stands for it.

    Args:
        url: As fsspec opens it, without credentials: these come from the environment, or fsspec's configuration.
        say: Takes a line where the store is waited for.

    Raises:
        StoreError: No such protocol, a package is missing, or a password in the URL.
    """

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        import fsspec

        if (shown := redacted(url)) != url:
            rule, remedy = "a store's URL holds no password", "leave credentials to the environment"
            raise StoreError(rule, shown, remedy)
        self.url, self._say = url.rstrip("/"), say
        protocol = url.partition("://")[0].rpartition("::")[2]
        # What others write must be seen: nothing is listed from memory.
        options = {"use_listings_cache": False, "skip_instance_cache": True}
        self._fs: Any
        try:
            self._fs, path = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            package = EXTRAS.get(protocol)
            remedy = f"pip install {package}" if package else "install what it names"
            raise StoreError(f"a store at {protocol}:// needs a package", f"{url} ({error})", remedy) from None
        except ValueError as error:
            remedy = "pass a folder, or a URL such as s3://bucket/prefix"
            raise StoreError("a store is a folder, or a URL that fsspec opens", f"{url} ({error})", remedy) from None
        self._path, self._is_atomic = path.rstrip("/"), protocol in (*EXTRAS, "memory")
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.folder = platformdirs.user_cache_path("slamlab") / "stores" / name

    def place(self) -> tuple[Any, str]:
        """Return fsspec's file system, and the store's path on it."""
        return self._fs, self._path

    def check(self) -> None:
        """See whether the URL can be written to.

        Raises:
            StoreError: It cannot.
        """
        probe = self._at(f".draft-{os.urandom(8).hex()}")
        try:
            if not self._is_atomic:
                self._fs.makedirs(self._path, exist_ok=True)
            self._fs.pipe_file(probe, b"slamlab")
            self._fs.rm_file(probe)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            rule, remedy = "a store's URL can be written to", "check bucket, credentials and endpoint"
            raise StoreError(rule, f"{self.url} ({reason})", remedy) from None

    def has(self, name: str) -> bool:
        """Say whether a file is there."""
        return self._size(name) is not None

    def send(self, name: str, *, anew: bool = True) -> None:
        """Put a file of the working folder there, whole or not at all.

        Args:
            name: Relative path.
            anew: Whether one that is there, as large, is replaced.
        """
        source = self.folder / name
        if not anew and self._size(name) == source.stat().st_size:
            return

        def put() -> None:
            if self._is_atomic:
                self._fs.put_file(str(source), self._at(name))
                return
            target = self._at(name)
            parent, _, own = target.rpartition("/")
            draft = f"{parent}/.draft-{os.urandom(8).hex()}-{own}"
            self._fs.makedirs(parent, exist_ok=True)
            self._fs.put_file(str(source), draft)
            self._fs.mv(draft, target)

        self._do(put)

    def fetch(self, name: str) -> bool:
        """Bring a file into the working folder; say whether it was there. What it holds is for the caller to verify."""
        try:
            with whole_file(self.folder / name) as draft:
                self._do(lambda: self._fs.get_file(self._at(name), str(draft)))
        except FileNotFoundError:
            return False
        return True

    def fetch_all(self, names: Iterable[str]) -> None:
        """Bring those files into the working folder that are there and not here, many at a time."""
        wanted = [name for name in names if not (self.folder / name).exists()]
        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            list(pool.map(self.fetch, wanted))

    def names(self, folder: str) -> list[str]:
        """Return the names of the files below a folder."""
        try:
            found = self._do(lambda: self._fs.find(self._at(folder)))
        except FileNotFoundError:
            return []
        return sorted(path.removeprefix(self._path).lstrip("/") for path in found)

    def remove(self, name: str) -> None:
        """Remove a file, where it is there."""
        try:
            self._do(lambda: self._fs.rm_file(self._at(name)))
        except FileNotFoundError:
            return

    def has_folder(self, name: str) -> bool:
        """Say whether a folder is there, whole."""
        return self.has(f"{name}/{MANIFEST}")

    def send_folder(self, name: str) -> None:
        """Put a folder there that has a manifest, unless it is there."""
        listed = read_manifest((self.folder / name / MANIFEST).read_bytes())
        if self.has_folder(name) or listed is None:
            return
        for file in listed:
            self.send(f"{name}/{file}", anew=False)
        self.send(f"{name}/{MANIFEST}")

    def fetch_folder(self, name: str) -> str | None:
        """Bring a folder into the working folder; return what is wrong with it, None where it is not there."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".draft-") as draft:
            inner = Path(draft) / target.name
            below = f"{inner.relative_to(self.folder).as_posix()}/"
            listed = self._get(f"{name}/{MANIFEST}", below + MANIFEST) and read_manifest(
                (inner / MANIFEST).read_bytes()
            )
            if listed is False:
                return None
            for file in listed or ():
                self._get(f"{name}/{file}", below + file)
            if problem := folder_problem(inner, hashed=True):
                return problem
            if self.has(f"{name}/{KEPT}"):
                (inner / KEPT).touch()
            try:
                inner.rename(target)
            except OSError:
                if not target.exists():  # else another process was first
                    raise
        return ""

    def remove_folder(self, name: str) -> None:
        """Remove a folder: its manifest first, without which it is not there."""
        self.remove(f"{name}/{MANIFEST}")
        for file in self.names(name):
            self.remove(file)

    def _get(self, name: str, local: str) -> bool:
        target = self.folder / local
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._do(lambda: self._fs.get_file(self._at(name), str(target)))
        except FileNotFoundError:
            return False
        return True

    def _size(self, name: str) -> int | None:
        try:
            return int(self._do(lambda: self._fs.info(self._at(name)))["size"])
        except FileNotFoundError:
            return None

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _do(self, work: Callable[[], Result]) -> Result:
        """Do something there, waiting where it is away.

        Raises:
            FileNotFoundError: It is not there.
            StoreError: It may not be done, or the store stays away.
        """
        try:
            return patiently(work, _is_away, self.url, self._say)
        except PermissionError as error:
            rule, remedy = "a store can be read and written", "check its credentials"
            raise StoreError(rule, f"{self.url} ({error})", remedy) from None


def _is_away(error: Exception) -> bool:
    return not isinstance(error, (*NEVER_AWAY, StoreError)) and "Credential" not in type(error).__name__
