"""terraform/check.sh finds planted faults. The test needs Terraform and its registry, so it runs separately."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import ROOT


class Fault(NamedTuple):
    """A replacement of a text in a file of terraform/, and the text that the output must have."""

    file: str
    text: str
    planted: str
    found: str


PLANTED = {
    "a misspelt argument": Fault(
        "gke.tf",
        "enable_shielded_nodes = true",
        "enable_shileded_nodes = true",
        'argument named "enable_shileded_nodes"',
    ),
    "a missing argument": Fault("registry.tf", '  format        = "DOCKER"\n', "", 'argument "format" is required'),
    "a reference to a missing resource": Fault(
        "iam.tf",
        "member  = google_service_account.nodes.member",
        "member  = google_service_account.node.member",
        '"google_service_account" "node" has not been declared',
    ),
    "another threshold": Fault("alerts.yml", "> 0.05", "> 0.5", "above 5 % of the requests"),
    "another account's binding": Fault(
        "iam.tf",
        "[${local.namespace}/${local.name}-${each.key}]",
        "[${local.namespace}/${local.name}-api]",
        "Each Kubernetes service account must act only as the Google account of its name",
    ),
    "more nodes than configured": Fault(
        "gke.tf",
        "total_max_node_count = var.node_count.max",
        "total_max_node_count = 3 * var.node_count.max",
        "1 to 3 nodes in the region",
    ),
    "old TLS": Fault("tls.tf", '"TLS_1_2"', '"TLS_1_0"', "must refuse versions older than 1.2"),
    "bad format": Fault(
        "storage.tf",
        "force_destroy               = false",
        "force_destroy = false",
        "- force_destroy = false + force_destroy = false",
    ),
}


@pytest.mark.timeout(600)  # the first run fetches the provider
@pytest.mark.parametrize("fault", PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_fault_is_found(fault: Fault, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "terraform", tmp_path, dirs_exist_ok=True)
    file = tmp_path / fault.file
    text = file.read_text()
    assert fault.text in text
    file.write_text(text.replace(fault.text, fault.planted))

    checked = subprocess.run([tmp_path / "check.sh"], capture_output=True, text=True, check=False, timeout=500)

    said = " ".join((checked.stdout + checked.stderr).replace("│", " ").split())
    assert checked.returncode != 0
    assert fault.found in said, said
