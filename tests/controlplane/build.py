"""Builds Kubernetes' control plane, and downloads modules, with Go."""

import json
import shutil
from pathlib import Path

from tests import ROOT
from tests.golang import go
from tests.unavailable import unavailable

_PROGRAMS = Path(__file__).with_name("programs")
_NAMES = ("kube-apiserver", "kube-controller-manager")
_BUILD_SECONDS = 3600.0


def programs() -> Path:
    """The folder of the programs. The first call builds them with Go, in some 15 minutes of CPU time.

    If etcd is missing or the build fails, skips the test, or fails it if CI=true.
    """
    if shutil.which("etcd") is None:
        unavailable("etcd is missing: Debian's package etcd-server has it")
    required = (_PROGRAMS / "go.mod").read_text().splitlines()
    version = next(line.split()[-1] for line in required if line.startswith("require k8s.io/kubernetes "))
    built = ROOT / "var" / "kubernetes" / version
    if all((built / name).is_file() for name in _NAMES):
        return built
    built.mkdir(parents=True, exist_ok=True)
    print(f"building {' and '.join(_NAMES)} {version}; takes some 15 minutes of CPU time", flush=True)  # noqa: T201
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in _NAMES]
    # Kubernetes' own build sets its version in this way; without one, kubectl cannot read the server's version.
    flags = f"-X k8s.io/component-base/version.gitVersion={version}"
    _go("build", "-trimpath", f"-ldflags={flags}", "-o", f"{built}/", *packages, folder=_PROGRAMS)
    return built


def module(path: str, version: str, folder: Path) -> Path:
    """The folder of a Go module, which Go downloads; `folder` is any folder. Skips or fails as `programs` does."""
    return Path(json.loads(_go("mod", "download", "-json", f"{path}@{version}", folder=folder))["Dir"])


def _go(*command: str, folder: Path) -> str:
    return go(*command, what="Kubernetes", timeout=_BUILD_SECONDS, folder=folder, CGO_ENABLED="0")
