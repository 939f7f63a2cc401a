"""Terraform, the manifests, the alerts and the code say the same names. Reads the files; needs no Terraform."""

import re
from typing import Any

import hcl2
import pytest
import yaml

from tests.deployment.manifests import KUBERNETES, Manifests, build
from tests.servers import ROOT

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


def test_each_synced_secret_is_read_by_the_account_that_may(gke: Manifests, terraform_locals: dict[str, Any]) -> None:
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


def test_the_overlay_is_fed_what_terraform_puts_out(gke: Manifests) -> None:
    outputs = (TERRAFORM / "outputs.tf").read_text("utf-8")
    example = (KUBERNETES / "overlays" / "gke" / "project.env").read_text("utf-8")

    written = re.search(r"<<-EOT\n(.*?)\n *EOT", outputs, re.DOTALL)
    assert written is not None
    template = "\n".join(line.strip() for line in written[1].splitlines())
    for value, meant in {
        "var.project_id": "my-project",
        "google_compute_address.api.name": "pulse-api",
        "google_storage_bucket.export.url": "gs://my-project-pulse-export",
        "google_bigquery_table.events.dataset_id": "pulse",
        "google_bigquery_table.events.table_id": "events",
    }.items():
        template = template.replace("${" + value + "}", meant)
    assert template.strip() == example.strip()
    (export,) = [each for each in gke.of("ConfigMap") if each["metadata"]["name"].startswith("pulse-export")]
    assert export["data"]["EXPORT_URL"] == "gs://my-project-pulse-export"
    assert export["data"]["EXPORT_BIGQUERY_TABLE"] == "my-project.pulse.events"

    (service,) = [each for each in gke.of("Service") if each["spec"]["type"] == "LoadBalancer"]
    assert service["metadata"]["annotations"]["networking.gke.io/load-balancer-ip-addresses"] == "pulse-api"


def test_the_alerts_ask_for_the_jobs_that_managed_prometheus_scrapes(gke: Manifests) -> None:
    with (TERRAFORM / "alerts.yml").open(encoding="utf-8") as file:
        rules = [rule["expr"] for group in yaml.safe_load(file)["groups"] for rule in group["rules"]]

    jobs = {job for rule in rules for job in re.findall(r'job="([^"]+)"', rule)}
    assert jobs == gke.names("PodMonitoring")


def test_the_uptime_check_asks_a_path_and_a_port_that_are_there(gke: Manifests) -> None:
    monitoring = (TERRAFORM / "monitoring.tf").read_text("utf-8")
    (service,) = [each for each in gke.of("Service") if each["spec"]["type"] == "LoadBalancer"]
    (port,) = service["spec"]["ports"]

    assert f"null ? {port['port']} : 443" in monitoring
    assert 'path         = "/health"' in monitoring


def _unquoted(node: Any) -> Any:
    """What hcl2 gives, without the quotation marks that it keeps around strings."""
    if isinstance(node, dict):
        return {_unquoted(key): _unquoted(value) for key, value in node.items() if not key.startswith("__")}
    if isinstance(node, list):
        return [_unquoted(value) for value in node]
    return node.strip('"') if isinstance(node, str) else node
