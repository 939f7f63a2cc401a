"""The definitions of the custom resources that the overlay for GKE uses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.controlplane.build import module
from tests.deployment.custom_resources import SPECS

_PUBLISHED = {
    ("github.com/kedacore/keda/v2", "v2.21.0"): (
        "config/crd/bases/keda.sh_scaledobjects.yaml",
        "config/crd/bases/keda.sh_triggerauthentications.yaml",
    ),
    ("sigs.k8s.io/gateway-api", "v1.5.0"): (
        "config/crd/standard/gateway.networking.k8s.io_gateways.yaml",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
}
"""The files in Go modules, by module and version."""


def definitions(folder: Path) -> Iterator[Path]:
    """The files of all definitions. Those of GKE are not published as modules: they are made of our own schemas."""
    for (path, version), files in _PUBLISHED.items():
        yield from (module(path, version, folder) / file for file in files)
    for (api_version, kind), spec in SPECS.items():
        if not api_version.startswith(("keda.sh/", "gateway.networking.k8s.io/")):
            file = folder / f"{kind}.json"
            file.write_text(json.dumps(_definition(api_version, kind, spec)))
            yield file


def _definition(api_version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    group, version = api_version.split("/")
    singular = kind.lower()
    plural = f"{singular[:-1]}ies" if singular.endswith("y") else f"{singular}{'es' if singular[-1] == 's' else 's'}"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": singular},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": _structural(spec)}}},
                }
            ],
        },
    }


def _structural(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema in the part of JSON Schema that Kubernetes allows. The API server refuses unknown fields anyway."""
    match schema:
        case {"const": value}:
            return {"type": "string", "enum": [value]}
        case {"enum": values}:
            return {"type": "integer" if isinstance(values[0], int) else "string", "enum": values}
        case {"type": "object", "properties": properties, "required": required}:
            made = {"type": "object", "properties": {name: _structural(each) for name, each in properties.items()}}
            return made | ({"required": required} if required else {})
        case {"type": "object"}:
            return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        case {"type": "array", "items": items}:
            return {**schema, "items": _structural(items)}
    return schema
