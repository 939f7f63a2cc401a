"""Kubernetes itself accepts both overlays, rolls out their pods and a release, and goes back; as in docs/deployment.md.

A thread stands in for scheduler and kubelet, so no container runs.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tests.controlplane.build import programs
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.custom_kinds import definitions
from tests.controlplane.kubelet import Kubelet
from tests.deployment.manifests import KUBERNETES, OVERLAYS, build, name_of

NAMESPACE = "--namespace=pulse-pipeline"
ROLLED_OUT = ("StatefulSet", "Deployment")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that knows the custom resources, with a node."""
    folder = tmp_path_factory.mktemp("control-plane")
    cluster = ControlPlane(programs(), folder)
    try:
        cluster.start()
        kinds = tmp_path_factory.mktemp("kinds")
        for file in definitions(kinds):
            # The definitions of KEDA are too large for the annotation of a client-side apply.
            cluster.kubectl("apply", "--server-side", "--filename", str(file))
        cluster.kubectl("wait", "customresourcedefinitions", "--all", "--for=condition=Established", "--timeout=60s")
        kubelet = Kubelet(cluster)
        kubelet.start()
        yield cluster
        kubelet.stop()
    finally:
        cluster.kill()


@dataclass
class Deployed:
    """An overlay, and what kubectl printed when it was deployed for the first time."""

    folder: Path
    cluster: ControlPlane
    dry_run: str
    diff: str
    applied: str

    @cached_property
    def workloads(self) -> list[str]:
        return [name_of(each).lower() for each in build(self.folder).of(*ROLLED_OUT)]

    def wait(self) -> None:
        """Wait until all pods of the newest version are ready."""
        for workload in self.workloads:
            self.cluster.kubectl("rollout", "status", workload, NAMESPACE, "--timeout=90s")

    def generations(self) -> dict[str, int]:
        """The version of each object's spec, which the cluster counts, by name."""
        found = self.cluster.get("--kustomize", str(self.folder))["items"]
        return {name_of(each): each["metadata"].get("generation", 0) for each in found}

    def images(self) -> dict[str, str]:
        """The images of the pods that the workloads want, by workload."""
        return {
            workload: self.cluster.get(workload, NAMESPACE)["spec"]["template"]["spec"]["containers"][0]["image"]
            for workload in self.workloads
        }


@pytest.fixture(scope="module", params=OVERLAYS)
def deployed(
    cluster: ControlPlane, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    copy = tmp_path_factory.mktemp("kubernetes")
    shutil.copytree(KUBERNETES, copy, dirs_exist_ok=True)
    folder = copy / "overlays" / request.param
    cluster.kubectl("apply", "--filename", str(copy / "base" / "namespace.yaml"))
    dry_run = cluster.kubectl("apply", "--dry-run=server", "--kustomize", str(folder))
    diff = cluster.kubectl("diff", "--kustomize", str(folder), fails=True)
    applied = cluster.kubectl("apply", "--kustomize", str(folder))
    yield Deployed(folder, cluster, dry_run, diff, applied)
    cluster.kubectl("delete", "namespace", "pulse-pipeline", "--timeout=90s")


def test_a_dry_run_accepts_all_objects_without_a_warning(deployed: Deployed) -> None:
    lines = deployed.dry_run.splitlines()
    assert [line for line in lines if not line.endswith("(server dry run)")] == []
    assert len(lines) == len(build(deployed.folder).objects)


def test_the_first_diff_shows_all_workloads(deployed: Deployed) -> None:
    for each in build(deployed.folder).of(*ROLLED_OUT, "CronJob", "Job"):
        assert f"+kind: {each['kind']}\n" in deployed.diff
        assert f"+  name: {each['metadata']['name']}\n" in deployed.diff
    assert [line for line in deployed.diff.splitlines() if line.lower().startswith(("warning", "error"))] == []


def test_the_first_apply_creates_all_objects_without_a_warning(deployed: Deployed) -> None:
    lines = deployed.applied.splitlines()
    assert [line for line in lines if not line.endswith(" created")] == ["namespace/pulse-pipeline configured"]


def test_all_pods_are_admitted_and_become_ready(deployed: Deployed) -> None:
    deployed.wait()
    deployed.cluster.kubectl("wait", "job/pulse-topics", NAMESPACE, "--for=condition=Complete", "--timeout=60s")
    pods = deployed.cluster.get("pods", NAMESPACE)["items"]
    wanted = {workload.partition("/")[2] for workload in deployed.workloads}
    assert wanted <= {pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in pods}


def test_a_second_apply_changes_nothing(deployed: Deployed) -> None:
    before = deployed.generations()
    # kubectl sends parts of StatefulSets and PodDisruptionBudgets again at each apply, so its output proves nothing.
    deployed.cluster.kubectl("apply", "--kustomize", str(deployed.folder))
    assert deployed.generations() == before
    assert deployed.cluster.kubectl("diff", "--kustomize", str(deployed.folder)) == ""


def test_the_cluster_refuses_a_pod_that_runs_as_root(deployed: Deployed) -> None:
    said = deployed.cluster.kubectl("run", "intruder", "--image=any", NAMESPACE, fails=True)
    assert 'violates PodSecurity "restricted' in said


def test_an_eviction_leaves_one_pod_of_the_api(deployed: Deployed) -> None:
    deployed.wait()
    cluster = deployed.cluster
    pods = [f"pulse-api-{number}" for number in (0, 1)]
    answers = []
    for pod in pods:
        url = f"{cluster.url}/api/v1/namespaces/pulse-pipeline/pods/{pod}/eviction"
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        answers.append(cluster.session.post(url, json=body, timeout=10).status_code)
    assert answers == [201, 429]
    deployed.wait()


def test_a_release_rolls_out_new_images_and_can_be_undone(deployed: Deployed) -> None:
    cluster = deployed.cluster
    before = deployed.images()
    kustomization = deployed.folder / "kustomization.yaml"
    text = kustomization.read_text()
    for tag in ("newTag: local", 'newTag: "0000000"'):
        text = text.replace(tag, "newTag: next")
    kustomization.write_text(text)

    cluster.kubectl("delete", "job", "pulse-topics", NAMESPACE, "--ignore-not-found")
    diff = cluster.kubectl("diff", "--kustomize", str(deployed.folder), fails=True)
    cluster.kubectl("apply", "--kustomize", str(deployed.folder))
    deployed.wait()
    released = deployed.images()

    changed = {workload for workload in before if before[workload] != released[workload]}
    assert changed == {workload for workload in before if "/pulse-" in workload}
    for workload in changed:
        assert f"-        image: {before[workload]}\n" in diff
        assert f"+        image: {released[workload]}\n" in diff
        cluster.kubectl("rollout", "undo", workload, NAMESPACE)
    deployed.wait()
    assert deployed.images() == before
