"""Pretends to be the scheduler and the node: it reports every pod as ready, or as done if a Job made it."""

import threading
import time
from typing import Any

import requests

from tests.controlplane.control_plane import ControlPlane

_NODE = "machine"
_MERGE = {"Content-Type": "application/merge-patch+json"}
_READY = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")]


class Kubelet(threading.Thread):
    """Works until `stop`, and then raises what went wrong."""

    def __init__(self, control_plane: ControlPlane) -> None:
        super().__init__(name="kubelet", daemon=True)
        self._session = control_plane.session
        self._url = f"{control_plane.url}/api/v1"
        self._stopping = threading.Event()
        self._error: Exception | None = None

    def stop(self) -> None:
        self._stopping.set()
        self.join(30)
        if self._error:
            raise self._error

    def run(self) -> None:
        try:
            self._ask("POST", "/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": _NODE}})
            while not self._stopping.wait(0.1):
                for pod in self._ask("GET", "/pods")["items"]:
                    self._serve(pod)
        except (requests.RequestException, KeyError) as error:
            self._error = error

    def _serve(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        path = f"/namespaces/{pod['metadata']['namespace']}/pods/{name}"
        if "deletionTimestamp" in pod["metadata"]:
            self._ask("DELETE", path, {"gracePeriodSeconds": 0})
        elif "nodeName" not in pod["spec"]:
            target = {"apiVersion": "v1", "kind": "Node", "name": _NODE}
            self._ask("POST", f"{path}/binding", {"metadata": {"name": name}, "target": target})
        elif pod["status"]["phase"] == "Pending":
            self._ask("PATCH", f"{path}/status", {"status": _status(pod)})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = _MERGE if method == "PATCH" else {}
        answer = self._session.request(method, f"{self._url}{path}", json=body, headers=headers, timeout=10)
        # Another client can be faster to delete a pod.
        if answer.status_code not in (404, 409):
            answer.raise_for_status()
        return answer.json()


def _status(pod: dict[str, Any]) -> dict[str, Any]:
    of_job = any(owner["kind"] == "Job" for owner in pod["metadata"].get("ownerReferences", []))
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        "phase": "Succeeded" if of_job else "Running",
        "startTime": now,
        "conditions": [{**condition, "lastTransitionTime": now} for condition in _READY],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": not of_job,
                "restartCount": 0,
                "state": {"terminated": {"exitCode": 0}} if of_job else {"running": {"startedAt": now}},
            }
            for container in pod["spec"]["containers"]
        ],
    }
