"""EXPORT_URL: a folder of this machine, of Cloud Storage or of S3, by pyarrow's own file systems.

Credentials are those that the machine has for such services. STORAGE_EMULATOR_HOST and AWS_ENDPOINT_URL name stand-ins.
"""

import os
import shutil
import uuid
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import fs

from common.errors import ExportError

_RETRY = timedelta(seconds=60)
_SECONDS = 30.0
_CHUNK = 4 * 1024 * 1024


class Destination:
    """Where files go. A file is there as a whole or not at all."""

    def __init__(self, url: str) -> None:
        """`url`: file:///folder, gs://bucket/prefix or s3://bucket/prefix. Does not connect."""
        self.url = url
        parts = urlsplit(url)
        self._is_local = parts.scheme == "file"
        self._root = parts.path if self._is_local else f"{parts.netloc}{parts.path}"
        self._files = _file_system(parts.scheme)

    def url_of(self, path: str) -> str:
        """The URL of a file."""
        return f"{self.url}/{path}"

    def put(self, source: Path, path: str) -> None:
        """Copy a local file there, in place of one of that name. Blocks; raises OSError."""
        if self._is_local:
            self._put_on_disk(source, Path(self._root) / path)
            return
        with source.open("rb") as content, self._files.open_output_stream(f"{self._root}/{path}") as upload:
            shutil.copyfileobj(content, upload, _CHUNK)

    def open(self, path: str) -> "fs.NativeFile":
        """A file of it, to read. Raises FileNotFoundError, OSError."""
        return self._files.open_input_file(f"{self._root}/{path}")

    def check(self) -> None:
        """Raise ExportError if this is a folder that is not there, as on another machine than that of the files."""
        if self._is_local and not Path(self._root).is_dir():
            raise ExportError(
                f"{self.url} is not there: export on the machine that has the files. If they were deleted, make the "
                "folder, empty."
            )

    def _put_on_disk(self, source: Path, target: Path) -> None:
        """By a rename, so that no reader sees a part of it; and on the disk itself, before anybody counts on it."""
        target.parent.mkdir(parents=True, exist_ok=True)
        there = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            shutil.copyfile(source, there)
            with there.open("rb") as copied:
                os.fsync(copied.fileno())
            there.replace(target)
        finally:
            there.unlink(missing_ok=True)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _file_system(scheme: str) -> fs.FileSystem:
    if scheme == "file":
        return fs.LocalFileSystem()
    if scheme == "s3":
        endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
        stand_in = {"scheme": endpoint.scheme, "endpoint_override": endpoint.netloc} if endpoint.netloc else {}
        return fs.S3FileSystem(connect_timeout=_SECONDS, request_timeout=_SECONDS, **stand_in)
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if not emulator:
        return fs.GcsFileSystem(retry_time_limit=_RETRY)
    parts = urlsplit(emulator if "//" in emulator else f"http://{emulator}")
    return fs.GcsFileSystem(
        anonymous=True, scheme=parts.scheme, endpoint_override=parts.netloc, retry_time_limit=_RETRY
    )
