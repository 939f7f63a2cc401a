"""A Kubernetes control plane on this machine: etcd, kube-apiserver and kube-controller-manager, without nodes."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import requests
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ops.local import ports
from tests import ROOT
from tests.deployment.manifests import KUBECTL
from tests.servers import Process
from tests.unavailable import unavailable
from tests.waiting import eventually

_PROGRAMS = Path(__file__).with_name("programs")
_NAMES = ("kube-apiserver", "kube-controller-manager")
_BUILD_SECONDS = 3600.0
_TOKEN = "admin-of-the-tests"


def programs() -> Path:
    """The folder of the programs. The first call builds them with Go, in some 15 minutes of CPU time.

    If etcd is missing or the build fails, skips the test, or fails it if CI=true.
    """
    if shutil.which("etcd") is None:
        unavailable("etcd is missing: Debian's package etcd-server has it")
    version = next(line.split()[-1] for line in _go_mod() if line.startswith("require k8s.io/kubernetes "))
    built = ROOT / "var" / "kubernetes" / version
    if all((built / name).is_file() for name in _NAMES):
        return built
    built.mkdir(parents=True, exist_ok=True)
    print(f"building {' and '.join(_NAMES)} {version}; takes some 15 minutes of CPU time", flush=True)  # noqa: T201
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in _NAMES]
    # Kubernetes' own build sets its version in this way; without one, kubectl cannot read the server's version.
    flags = f"-X k8s.io/component-base/version.gitVersion={version}"
    build(["go", "build", "-trimpath", "-mod=mod", f"-ldflags={flags}", "-o", f"{built}/", *packages], _PROGRAMS)
    return built


def module(path: str, version: str, folder: Path) -> Path:
    """The folder of a Go module, which Go downloads. Skips or fails as `programs` does."""
    return Path(json.loads(build(["go", "mod", "download", "-json", f"{path}@{version}"], folder))["Dir"])


def build(command: list[str], folder: Path) -> str:
    """The output of Go's command. Skips or fails as `programs` does."""
    # Go needs a home for its caches, and tox passes none.
    env = {"HOME": str(Path.home()), **os.environ, "CGO_ENABLED": "0"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        unavailable(f"Kubernetes cannot be built: {error} {str(getattr(error, 'stderr', '') or '')[-500:]}")
    return done.stdout


def _go_mod() -> list[str]:
    return (_PROGRAMS / "go.mod").read_text().splitlines()


class ControlPlane:
    """The three servers. Call `start` first, and `kill` at the end."""

    def __init__(self, built: Path, folder: Path) -> None:
        self._folder = folder
        etcd, peers = ports.free_port(), ports.free_port()
        self._etcd_port, self._port = etcd, ports.free_port()
        self._certificates = folder / "certificates"
        self._kubeconfig = folder / "kubeconfig"
        key = folder / "accounts.key"
        key.write_bytes(_new_key())
        (folder / "tokens.csv").write_text(f'{_TOKEN},admin,admin,"system:masters"\n')
        self.url = f"https://127.0.0.1:{self._port}"
        self._etcd = Process(
            [
                "etcd",
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls=http://127.0.0.1:{etcd}",
                f"--advertise-client-urls=http://127.0.0.1:{etcd}",
                f"--listen-peer-urls=http://127.0.0.1:{peers}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
                f"--initial-cluster=default=http://127.0.0.1:{peers}",
            ],
            folder / "etcd.log",
        )
        self._api = Process(
            [
                str(built / "kube-apiserver"),
                f"--etcd-servers=http://127.0.0.1:{etcd}",
                "--bind-address=127.0.0.1",
                f"--secure-port={self._port}",
                f"--cert-dir={self._certificates}",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                "--endpoint-reconciler-type=none",
            ],
            folder / "kube-apiserver.log",
        )
        self._controllers = Process(
            [
                str(built / "kube-controller-manager"),
                f"--kubeconfig={self._kubeconfig}",
                f"--service-account-private-key-file={key}",
                "--bind-address=127.0.0.1",
                f"--secure-port={ports.free_port()}",
                f"--cert-dir={folder / 'controllers'}",
                "--leader-elect=false",
            ],
            folder / "kube-controller-manager.log",
        )
        self.session = requests.Session()
        """Has the rights of an administrator."""
        # Otherwise a proxy or certificates of the environment would take precedence.
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Bearer {_TOKEN}"

    def start(self) -> None:
        self._etcd.start()
        ports.wait_until_answers(self._etcd_port, 60)
        self._api.start()
        ports.wait_until_answers(self._port, 120)
        # The API server signs its own certificate.
        self.session.verify = str(self._certificates / "apiserver.crt")
        eventually(lambda: self.session.get(f"{self.url}/readyz", timeout=10).ok, 60, "the API server's readiness")
        self._kubeconfig.write_text(yaml.safe_dump(self._config()))
        self._controllers.start()
        eventually(self._has_default_account, 60, "the controllers")

    def kubectl(self, *arguments: str, fails: bool = False, timeout: float = 120) -> str:
        """The output of kubectl; also its warnings. `fails`: whether it must exit with an error."""
        command = [str(KUBECTL), f"--kubeconfig={self._kubeconfig}", *arguments]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False
        )
        assert (done.returncode != 0) == fails, f"kubectl {' '.join(arguments)}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """The result of `kubectl get` with these arguments."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def kill(self) -> None:
        self.session.close()
        for process in (self._controllers, self._api, self._etcd):
            process.kill()

    def _has_default_account(self) -> bool:
        return self.session.get(f"{self.url}/api/v1/namespaces/default/serviceaccounts/default", timeout=10).ok

    def _config(self) -> dict[str, Any]:
        cluster = {"server": self.url, "certificate-authority": self.session.verify}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": _TOKEN}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "admin"}}],
            "current-context": "tests",
        }


def _new_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
