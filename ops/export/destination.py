"""EXPORT_URL: a folder on this machine, in Cloud Storage or in S3, via pyarrow's file systems.

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
    """The place for the files. A file exists as a whole or not at all."""

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
        """Upload a local file; it replaces one with the same name. Blocks; raises OSError."""
        if self._is_local:
            self._put_on_disk(source, Path(self._root) / path)
            return
        with source.open("rb") as content, self._files.open_output_stream(f"{self._root}/{path}") as upload:
            shutil.copyfileobj(content, upload, _CHUNK)

    def open(self, path: str) -> "fs.NativeFile":
        """Open a file for reading. Raises FileNotFoundError, OSError."""
        return self._files.open_input_file(f"{self._root}/{path}")

    def check(self) -> None:
        """Raise ExportError if this is a local folder that does not exist, as on a different machine."""
        if self._is_local and not Path(self._root).is_dir():
            raise ExportError(
                f"{self.url} does not exist: export on the machine that has the files. If they were deleted, create "
                "the empty folder."
            )

    def _put_on_disk(self, source: Path, target: Path) -> None:
        """Copy it, sync it to disk, and rename it, so that no reader sees a part of it."""
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
