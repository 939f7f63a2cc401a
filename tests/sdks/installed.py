"""Installs the packages of a lock file once, from their registry, into var/sdks."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests import ROOT
from tests.unavailable import unavailable

NPM = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=optional"]
MAVEN = [
    "mvn",
    "-B",
    "-q",
    "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies",
    "-DoutputDirectory=libs",
]
HERE = Path(__file__).parent


def node_modules(folder: str) -> Path:
    """The folder with the packages of a package-lock.json."""
    return _installed(folder, ["package.json", "package-lock.json"], NPM) / "node_modules"


def jars(folder: str) -> Path:
    """The folder with the jars of a pom.xml and their dependencies."""
    return _installed(folder, ["pom.xml"], MAVEN) / "libs"


def _installed(folder: str, files: list[str], command: list[str]) -> Path:
    """The folder with copies of these files in which the command has run once. The first call blocks for up to 300 s.

    If the command fails, skips the test, or fails it if CI=true.
    """
    sources = [HERE / folder / file for file in files]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:8]
    installed = ROOT / "var" / "sdks" / f"{folder}-{digest}"
    if installed.is_dir():
        return installed
    installed.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=installed.parent, prefix="partial-") as partial:
        fresh = Path(partial, folder)
        fresh.mkdir()
        for source in sources:
            shutil.copy(source, fresh)
        try:
            subprocess.run(command, cwd=fresh, capture_output=True, text=True, timeout=300, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            said = str(getattr(error, "stdout", "") or "") + str(getattr(error, "stderr", "") or "")
            unavailable(f"the SDKs of tests/sdks/{folder} cannot be installed: {error} {said[-300:]}")
        try:
            fresh.rename(installed)
        except OSError:
            if not installed.is_dir():  # otherwise another process was faster
                raise
    return installed
