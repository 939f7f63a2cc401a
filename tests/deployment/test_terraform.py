"""Terraform, the manifests, the alerts and the code use the same names. The tests need no Terraform."""

import re
from typing import Any

import hcl2
import pytest
import yaml

from tests import ROOT
from tests.deployment.manifests import KUBERNETES, Manifests, build, every

TERRAFORM = ROOT / "terraform"


@pytest.fixture(scope="module")
def gke() -> Manifests:
    return build(KUBERNETES / "overlays" / "gke")


@pytest.fixture(scope="module")
def terraform_locals() -> dict[str, Any]:
    with (TERRAFORM / "locals.tf").open(encoding="utf-8") as file:
        (found,) = _unquoted(hcl2.load(file))["locals"]
    values: dict[str, Any] = found
    return values


def test_workload_identities_are_the_service_accounts_of_the_manifests(
    gke: Manifests, terraform_locals: dict[str, Any]
) -> None:
    annotated = {
        account["metadata"]["name"]: account["metadata"]["annotations"]["iam.gke.io/gcp-service-account"]
        for account in gke.of("ServiceAccount")
        if "annotations" in account["metadata"]
    }
    name = terraform_locals["name"]
    assert annotated == {
        f"{name}-{workload}": f"{name}-{workload}@my-project.iam.gserviceaccount.com"
        for workload in terraform_locals["workloads"]
    }
    assert gke.names("Namespace") == {terraform_locals["namespace"]}


def test_each_synced_secret_is_read_by_the_account_with_access(
    gke: Manifests, terraform_locals: dict[str, Any]
) -> None:
    secrets = {
        source["metadata"]["name"]: set(re.findall(r"secrets/(.+)/versions", source["spec"]["parameters"]["secrets"]))
        for source in gke.of("SecretProviderClass")
    }
    read: dict[str, set[str]] = {}
    for sync in gke.of("SecretSync"):
        spec = sync["spec"]
        read.setdefault(spec["serviceAccountName"], set()).update(secrets[spec["secretProviderClassName"]])

    assert read == {
        f"{terraform_locals['name']}-{workload}": set(names)
        for workload, names in terraform_locals["workloads"].items()
        if names
    }


def test_the_overlay_has_the_values_of_terraforms_output(gke: Manifests) -> None:
    outputs = (TERRAFORM / "outputs.tf").read_text("utf-8")
    example = (KUBERNETES / "overlays" / "gke" / "project.env").read_text("utf-8")

    written = re.search(r"<<-EOT\n(.*?)\n *EOT", outputs, re.DOTALL)
    assert written is not None
    template = "\n".join(line.strip() for line in written[1].splitlines())
    for value, meant in {
        "var.project_id": "my-project",
        "var.api_host": "events.example.com",
        "google_storage_bucket.export.url": "gs://my-project-pulse-export",
        "google_bigquery_table.events.dataset_id": "pulse",
        "google_bigquery_table.events.table_id": "events",
    }.items():
        template = template.replace("${" + value + "}", meant)
    assert template.strip() == example.strip()
    (export,) = [each for each in gke.of("ConfigMap") if each["metadata"]["name"].startswith("pulse-export")]
    assert export["data"]["EXPORT_URL"] == "gs://my-project-pulse-export"
    assert export["data"]["EXPORT_BIGQUERY_TABLE"] == "my-project.pulse.events"
    assert {name for each in gke.of("HTTPRoute") for name in each["spec"]["hostnames"]} == {"events.example.com"}


def test_the_gateway_names_the_resources_of_terraform(gke: Manifests, terraform_locals: dict[str, Any]) -> None:
    with (TERRAFORM / "tls.tf").open(encoding="utf-8") as file:
        made = {kind: each for found in _unquoted(hcl2.load(file))["resource"] for kind, each in found.items()}
    names = {
        kind: each["api"]["name"].replace("${local.name}", terraform_locals["name"]) for kind, each in made.items()
    }
    (gateway,) = gke.of("Gateway")
    (policy,) = gke.of("GCPGatewayPolicy")

    assert [each["value"] for each in gateway["spec"]["addresses"]] == [names["google_compute_global_address"]]
    certificates = gateway["metadata"]["annotations"]["networking.gke.io/certmap"]
    assert certificates == names["google_certificate_manager_certificate_map"]
    assert policy["spec"]["default"]["sslPolicy"] == names["google_compute_ssl_policy"]


def test_the_alerts_name_the_jobs_that_managed_prometheus_scrapes(gke: Manifests) -> None:
    with (TERRAFORM / "alerts.yml").open(encoding="utf-8") as file:
        rules = [rule["expr"] for group in yaml.safe_load(file)["groups"] for rule in group["rules"]]

    jobs = {job for rule in rules for job in re.findall(r'job="([^"]+)"', rule)}
    assert jobs == gke.names("PodMonitoring")


def test_the_uptime_check_uses_an_existing_path_and_port(gke: Manifests) -> None:
    monitoring = (TERRAFORM / "monitoring.tf").read_text("utf-8")
    (route,) = [each for each in gke.of("HTTPRoute") if any(every(each["spec"], "backendRefs"))]
    (gateway,) = gke.of("Gateway")
    asked = dict(re.findall(r"^ +(path|port) += \"?(.+?)\"?$", monitoring, re.MULTILINE))

    assert {"type": "Exact", "value": asked["path"]} in every(route["spec"], "path")
    assert int(asked["port"]) in {each["port"] for each in gateway["spec"]["listeners"] if each["protocol"] == "HTTPS"}


def _unquoted(node: Any) -> Any:
    """The value without the quotation marks that hcl2 keeps around strings."""
    if isinstance(node, dict):
        return {_unquoted(key): _unquoted(value) for key, value in node.items() if not key.startswith("__")}
    if isinstance(node, list):
        return [_unquoted(value) for value in node]
    return node.strip('"') if isinstance(node, str) else node
