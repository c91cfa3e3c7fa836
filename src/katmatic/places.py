"""Where files lie: a folder, or a bucket on AWS or Google Cloud. `s3://bucket/path`, `gs://bucket/path`, or a path.

Who may read and write is told as each cloud's own tools are told: by their environment variables, files or machines. A
store of one's own that speaks S3's protocol is named in the address:
`s3://bucket/path?endpoint_override=host:port&scheme=http`. What is written is there whole, or not at all.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from katmatic.errors import PlaceError

SCHEMES = ("s3://", "gs://", "gcs://")
GOOGLE_RETRY_SECONDS = 60  # Arrow's own patience with Google Cloud is a quarter of an hour


def is_remote(address: str) -> bool:
    """Whether an address names a bucket, and not a path."""
    return address.startswith(SCHEMES)


class Place:
    """A folder or a part of a bucket, by its address; PlaceError if it means nothing, or cannot be reached."""

    def __init__(self, address: str | Path) -> None:
        self.address = str(address).removeprefix("file://")
        self._files: Any = None  # pyarrow's file system; None: a folder
        self._path = self.address.rstrip("/") or "/"
        if is_remote(self.address):
            if importlib.util.find_spec("pyarrow") is None:
                raise self._error(
                    "", "no pyarrow to reach it with", "it", "install it: pip install 'katmatic[parquet]'"
                )
            from pyarrow.fs import FileSystem

            if re.match(r"\w+://[^/?]*:[^/?]*@", self.address):
                self.address = re.sub(r"://[^/?]*@", "://", self.address)  # it is told, and kept with each model
                raise self._error(
                    "", "a secret in the address", "s3://bucket/path", "give it as AWS_ACCESS_KEY_ID and the like"
                )
            try:
                self._files, path = FileSystem.from_uri(_patient(self.address.replace("gcs://", "gs://")))
            except (OSError, ValueError) as error:
                raise self._error("", str(error), "an address as s3://bucket/path", "correct it") from error
            self._path = path.rstrip("/")
            if not self._path:
                raise self._error("", "no bucket", "an address as s3://bucket/path", "name one")
        elif "://" in self.address:
            raise self._error("", "an address of another kind", f"a path, or one of {', '.join(SCHEMES)}", "correct it")

    def __truediv__(self, name: str) -> Place:
        """A part of it."""
        base, question, options = self.address.partition("?")
        return Place(f"{base.rstrip('/')}/{name}{question}{options}")

    def read(self, name: str) -> bytes:
        """The content of a file; FileNotFoundError if it is not there."""
        with self._explained(name):
            if self._files is None:
                return (Path(self._path) / name).read_bytes()
            with self._files.open_input_file(f"{self._path}/{name}") as file:
                return bytes(file.read())

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Put a file there, whole; one of that name is replaced."""
        with self._explained(name):
            if self._files is not None:
                with self._files.open_output_stream(f"{self._path}/{name}") as stream:
                    stream.write(data)
                return
            file = Path(self._path) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor, unfinished = tempfile.mkstemp(prefix=".", dir=file.parent)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                Path(unfinished).replace(file)
            finally:
                Path(unfinished).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Every file in it, by its path from here; none of a place that is not there yet."""
        with self._explained(""):
            if self._files is None:
                here = Path(self._path)
                found = [file.relative_to(here).as_posix() for file in here.rglob("*") if file.is_file()]
            else:
                from pyarrow.fs import FileSelector, FileType

                chosen = FileSelector(self._path, recursive=True, allow_not_found=True)
                files = [info for info in self._files.get_file_info(chosen) if info.type == FileType.File]
                found = [info.path.removeprefix(f"{self._path}/") for info in files]
        return sorted(name for name in found if not name.rpartition("/")[2].startswith("."))

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """A file to be read here and there."""
        with self._explained(name):
            if self._files is None:
                with (Path(self._path) / name).open("rb") as file:
                    yield file
            else:
                with self._files.open_input_file(f"{self._path}/{name}") as file:
                    yield file

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._error(
                name, str(error), "a place to read and write", "see that it is there, and who may"
            ) from error

    def _error(self, name: str, found: str, expected: str, do: str) -> PlaceError:
        where = self.address.partition("?")[0]
        return PlaceError(f"{where.rstrip('/')}/{name}" if name else where, found=found, expected=expected, do=do)


def _patient(address: str) -> str:
    """The address with a limit to how long Google Cloud is tried again; S3's client has one."""
    if not address.startswith("gs://") or "retry_limit_seconds" in address:
        return address
    return f"{address}{'&' if '?' in address else '?'}retry_limit_seconds={GOOGLE_RETRY_SECONDS}"
