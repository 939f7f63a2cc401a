"""A Kubernetes control plane on this machine: etcd, kube-apiserver and kube-controller-manager, without nodes."""

import json
import subprocess
from pathlib import Path
from typing import Any

import requests
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ops.local import ports
from tests.deployment.manifests import KUBECTL
from tests.servers import Process
from tests.waiting import eventually

_TOKEN = "admin-of-the-tests"


class ControlPlane:
    """The three servers. `built`: the folder of their programs. Call `start` first, and `kill` at the end."""

    def __init__(self, built: Path, folder: Path) -> None:
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

    def kubectl(self, *arguments: str, fails: bool = False) -> str:
        """The output of kubectl; also its warnings. `fails`: whether it must exit with an error."""
        command = [str(KUBECTL), f"--kubeconfig={self._kubeconfig}", *arguments]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
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
