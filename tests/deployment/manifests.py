"""The manifests as a cluster gets them: a built overlay, with its pods, settings and secrets."""

import base64
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tests import ROOT

KUBERNETES = ROOT / "kubernetes"
OVERLAYS = ("local", "gke")
KUBECTL = Path(sys.executable).with_name("kubectl")
_CONTROLLERS = ("Deployment", "StatefulSet", "Job", "CronJob")
_SYNCED = "(synced)"

Object = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """A Deployment, StatefulSet, Job or CronJob. Each has one container."""

    controller: Object

    @property
    def name(self) -> str:
        """The kind and name, such as `Deployment/pulse-consumer`."""
        return name_of(self.controller)

    @property
    def spec(self) -> Object:
        spec: Object = self._template["spec"]
        return spec

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self._template["metadata"]["labels"]
        return labels

    @property
    def _template(self) -> Object:
        spec = self.controller["spec"]
        template: Object = spec["jobTemplate"]["spec"]["template"] if "jobTemplate" in spec else spec["template"]
        return template

    @property
    def container(self) -> Object:
        (container,) = self.spec["containers"]
        found: Object = container
        return found

    @property
    def process(self) -> str | None:
        """api, console, consumer, export or topics; None for third-party images."""
        name: str = self.container["name"]
        return name if name in ("api", "console", "consumer", "export", "topics") else None

    @property
    def ports(self) -> dict[str, int]:
        """The container's ports by name."""
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", [])}

    @property
    def claims(self) -> dict[str, Object]:
        """Its volume claims, by name."""
        return {claim["metadata"]["name"]: claim for claim in self.controller["spec"].get("volumeClaimTemplates", [])}


class Manifests:
    """An overlay's objects."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def of(self, *kinds: str) -> list[Object]:
        """The objects of these kinds."""
        return [found for found in self.objects if found["kind"] in kinds]

    @cached_property
    def workloads(self) -> list[Workload]:
        return [Workload(controller) for controller in self.of(*_CONTROLLERS)]

    @property
    def ours(self) -> list[Workload]:
        """The workloads that run this project's images."""
        return [workload for workload in self.workloads if workload.process]

    def names(self, kind: str) -> set[str]:
        return {found["metadata"]["name"] for found in self.of(kind)}

    def selected(self, labels: Mapping[str, str]) -> list[Workload]:
        """The workloads whose pods have all of these labels."""
        return [workload for workload in self.workloads if labels.items() <= workload.labels.items()]

    @cached_property
    def data(self) -> dict[tuple[str, str], dict[str, str]]:
        """The contents of each ConfigMap and Secret, by kind and name; keys of synced Secrets have a placeholder."""
        found = {("ConfigMap", each["metadata"]["name"]): each["data"] for each in self.of("ConfigMap")}
        for secret in self.of("Secret"):
            texts = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
            found["Secret", secret["metadata"]["name"]] = texts
        for sync in self.of("SecretSync"):
            keys = [each["targetKey"] for each in sync["spec"]["secretObject"]["data"]]
            found["Secret", sync["metadata"]["name"]] = dict.fromkeys(keys, _SYNCED)
        return found

    def environment(self, workload: Workload) -> dict[str, str]:
        """The variables of its container, without those from missing ConfigMaps and Secrets."""
        variables: dict[str, str] = {}
        for source in workload.container.get("envFrom", []):
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if field in source:
                    variables |= self.data.get((kind, source[field]["name"]), {})
        variables |= {each["name"]: each["value"] for each in workload.container.get("env", [])}
        if variables.get("MONGO_URI") == _SYNCED:
            variables["MONGO_URI"] = "mongodb://mongo.example.com:27017"
        return variables


def build(folder: Path) -> Manifests:
    """Build a kustomization. Raises CalledProcessError, with the output of kustomize in `stderr`."""
    command = [str(KUBECTL), "kustomize", str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return Manifests([each for each in yaml.safe_load_all(built.stdout) if each])


def name_of(each: Object) -> str:
    """The kind and name, such as `Service/pulse-api`."""
    return f"{each['kind']}/{each['metadata']['name']}"


def every(node: Any, key: str) -> Iterator[Any]:
    """All values with this key, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from every(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from every(value, key)
