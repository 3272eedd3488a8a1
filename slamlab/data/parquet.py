"""Files of Apache Parquet as hubs publish data sets in them: where they lie, and their rows in a drawn order.

A data set is read in place, by the columns and the row groups that are asked for: from a folder, from the local
Hugging Face cache where it has the file, else from the hub by range requests. No code of a data set's own is ever run.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from slamlab.errors import DataError

BUFFER_ROWS = 512
"""Rows that wait while one is drawn: of about five row groups, as `datasets` writes 100 recordings into one."""
_BATCH_ROWS = 32
_FOOTER_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ParquetFiles:
    """The Parquet files of a data set at one version.

    Attributes:
        source: "owner/name" on the hub, or the folder's path: for messages.
        version: Commit on the hub; of a folder, a digest of its files' names, sizes and last 64 KiB, where Parquet
            keeps offsets and statistics of all it holds.
        names: Paths within the data set, sorted.
        folder: Where they lie; None where they are read from the hub.
    """

    source: str
    version: str
    names: tuple[str, ...]
    folder: Path | None = None

    def matching(self, patterns: Sequence[str]) -> list[str]:
        """Return the names that match a pattern; a `*` also stands for folders."""
        return [name for name in self.names if any(fnmatchcase(name, pattern) for pattern in patterns)]

    def open(self, name: str) -> pq.ParquetFile:
        """Open one file.

        Raises:
            DataError: It cannot be had, or is no Parquet.
        """
        from huggingface_hub import HfFileSystem, try_to_load_from_cache
        from huggingface_hub.errors import HTTPError

        path = self.folder / name if self.folder else None
        if path is None:
            cached = try_to_load_from_cache(self.source, name, revision=self.version, repo_type="dataset")
            path = Path(cached) if isinstance(cached, str) else None
        try:
            if path is not None:
                return pq.ParquetFile(path, pre_buffer=True)
            # Exact ranges: a cache of blocks would fetch whole files for the sake of their texts.
            remote = HfFileSystem().open(f"datasets/{self.source}@{self.version}/{name}", cache_type="none")
            return pq.ParquetFile(remote, pre_buffer=True)
        except (OSError, HTTPError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            raise _unreadable(self.source, name, error) from None


def in_folder(folder: Path) -> ParquetFiles:
    """Find the Parquet files of a folder and all below it.

    Raises:
        DataError: No such folder.
    """
    if not folder.is_dir():
        raise DataError("a copy of a data set is a folder laid out as on the hub", str(folder), "check the path")
    digest, names = hashlib.sha256(), []
    for path in sorted(folder.rglob("*.parquet")):
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size
        with path.open("rb") as stream:
            stream.seek(max(0, size - _FOOTER_BYTES))
            digest.update(f"{name}/{size}/".encode() + stream.read())
        names.append(name)
    return ParquetFiles(source=str(folder), version=digest.hexdigest(), names=tuple(names), folder=folder)


def on_hub(hub_id: str, revision: str) -> ParquetFiles:
    """Find the Parquet files of a data set on the hub; of its copy in the local cache where no hub answers.

    Args:
        hub_id: "owner/name".
        revision: Commit, branch or reference.

    Raises:
        DataError: The data set is gated, not there, or no hub answers and the cache has nothing of it.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = HfApi().dataset_info(hub_id, revision=revision, timeout=30)
        names = [file.rfilename for file in found.siblings or ()]
        version = found.sha or revision
    except GatedRepoError:
        remedy = (
            "accept its terms at its page on the hub, then run `hf auth login`, or pass a copy of yours as NAME=FOLDER"
        )
        raise DataError("a gated data set asks for a login", hub_id, remedy) from None
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        remedy = "run `hf auth login` if it is private, or pass a copy of yours as NAME=FOLDER"
        raise DataError(
            "a data set exists on the hub", f"{hub_id} at {revision} ({type(error).__name__})", remedy
        ) from None
    except (OSError, HTTPError) as error:
        try:
            folder = Path(snapshot_download(hub_id, repo_type="dataset", revision=revision, local_files_only=True))
        except (OSError, ValueError):
            download = f"hf download --repo-type dataset --revision {revision} {hub_id}"
            remedy = f"connect, run `{download}` beforehand, or pass a copy as NAME=FOLDER"
            rule = "a data set comes from a hub that answers, or from the local Hugging Face cache"
            raise DataError(rule, f"{hub_id} ({type(error).__name__})", remedy) from None
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")]
        version = folder.name  # a snapshot's folder has the name of its commit
    names = sorted(name for name in names if name.endswith(".parquet"))
    return ParquetFiles(source=hub_id, version=version, names=tuple(names))


def rows(files: ParquetFiles, names: Sequence[str], columns: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """Yield every row of some files once, in an order drawn by `seed`, with few bytes read for the first ones.

    The files take turns, in an order drawn by a hash of their names, each with one row group at a time, drawn likewise;
    the rows go through a buffer of `BUFFER_ROWS` from which one is drawn at a time. So 1,000 rows cost about 15 row
    groups, of as many files, wherever the files lie: hub, cache and folder give one order. In memory are the buffer
    and one row group.

    Args:
        files: The data set.
        names: Which of its files.
        columns: What is read of them.
        seed: Of the draws.

    Raises:
        DataError: A file cannot be read, or lacks a column.
    """
    rng = random.Random(seed)
    waiting: list[dict[str, Any]] = []
    for batch in _batches(files, names, columns, seed):
        for row in batch:
            waiting.append(row)
            if len(waiting) > BUFFER_ROWS:
                at = rng.randrange(len(waiting))
                waiting[at], waiting[-1] = waiting[-1], waiting[at]
                yield waiting.pop()
    rng.shuffle(waiting)
    yield from waiting


def _batches(
    files: ParquetFiles, names: Sequence[str], columns: Sequence[str], seed: int
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of every row group of every file, the files by turns."""
    from huggingface_hub.errors import HTTPError

    turns, turn = sorted(names, key=lambda name: _drawn(seed, name)), 0
    while turns:
        left = []
        for name in turns:
            with files.open(name) as table:
                _check_columns(files, name, table, columns)
                groups = sorted(range(table.num_row_groups), key=lambda group: _drawn(seed, name, group))
                if turn + 1 < len(groups):
                    left.append(name)
                try:
                    for batch in table.iter_batches(_BATCH_ROWS, row_groups=groups[turn : turn + 1], columns=columns):
                        yield batch.to_pylist()
                except (OSError, HTTPError, ValueError) as error:
                    raise _unreadable(files.source, name, error) from None
        turns, turn = left, turn + 1


def _drawn(*facts: object) -> bytes:
    return hashlib.sha256("/".join(map(str, facts)).encode()).digest()


def _check_columns(files: ParquetFiles, name: str, table: pq.ParquetFile, columns: Sequence[str]) -> None:
    has = table.schema_arrow.names
    if missing := [column for column in columns if column not in has]:
        found = f"no {', '.join(missing)} in {name} of {files.source}, which has {', '.join(has)}"
        raise DataError(
            f"this data set has the columns {', '.join(columns)}",
            found,
            "take the version that the table of corpora names",
        )


def _unreadable(source: str, name: str, error: Exception) -> DataError:
    why = f"{name} of {source} ({type(error).__name__})"
    return DataError("a file of a data set can be read as Parquet", why, "try again, or download it anew")
