"""Rules for the manifests that no schema can check. Each rule yields a line for each fault."""

import os
import re
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kubernetes_validate import SchemaNotFoundError, ValidationError, validate
from prometheus_client import CollectorRegistry
from werkzeug.exceptions import MethodNotAllowed, NotFound

from api.server.worker import REQUEST_SECONDS, SEND_SECONDS
from common.addresses import Address
from common.errors import SettingsError
from common.settings import (
    load_api_settings,
    load_console_settings,
    load_consumer_settings,
    load_export_settings,
    load_topic_settings,
)
from consumer.health import Health, serve
from consumer.watchdog import STOP_SECONDS
from tests import ROOT
from tests.apps import build_app
from tests.deployment import custom_resources
from tests.deployment.manifests import Manifests, Object, Workload, every, name_of
from tests.fakes import FakeBroker

# The oldest version with all features that we use (a preStop sleep), and the newest.
KUBERNETES_VERSIONS = ("1.34.0", "1.37.0")
_LOADERS: dict[str, Callable[[], Any]] = {
    "api": load_api_settings,
    "consumer": load_consumer_settings,
    "export": load_export_settings,
    "console": load_console_settings,
    "topics": load_topic_settings,
}
# The paths for operators, which the internet must not reach.
INTERNAL_PATHS = {"/health/live", "/health/ready", "/metrics"}
# The source addresses of Google's global load balancers, for requests and health checks, and the time for which they
# keep an idle connection to a pod.
GOOGLE_PROXIES = {"130.211.0.0/22", "35.191.0.0/16"}
GOOGLE_IDLE_SECONDS = 600
_MARGIN_SECONDS = 10
_MONGODB_PORT = 27017


def schemas(manifests: Manifests) -> Iterator[str]:
    """Every object is valid by its schema and has no unknown fields."""
    for each in manifests.objects:
        try:
            for version in KUBERNETES_VERSIONS:
                validate(each, version, strict=True)
        except SchemaNotFoundError:
            yield from (f"{name_of(each)}: {fault}" for fault in custom_resources.faults(each))
        except ValidationError as error:
            yield f"{name_of(each)}: {error.message} (at {'.'.join(map(str, error.path))})"


def selectors(manifests: Manifests) -> Iterator[str]:
    """Every selector of pods matches at least one."""
    for each in manifests.of("Service"):
        if not manifests.selected(each["spec"]["selector"]):
            yield f"{name_of(each)}: its selector matches no pod"
    for each in manifests.of("Deployment", "StatefulSet", "PodDisruptionBudget", "PodMonitoring", "NetworkPolicy"):
        for key in ("selector", "podSelector", "labelSelector"):
            for selector in every(each["spec"], key):
                # DNS is in another namespace.
                if "k8s-app" not in selector.get("matchLabels", {}) and not _selects(manifests, selector):
                    yield f"{name_of(each)}: {key} {selector} matches no pod"
    for each in manifests.of("Deployment", "StatefulSet"):
        own = each["spec"]["template"]["metadata"]["labels"]
        if not each["spec"]["selector"]["matchLabels"].items() <= own.items():
            yield f"{name_of(each)}: its selector does not match its own pods"


def parts_of_pods(manifests: Manifests) -> Iterator[str]:
    """All accounts, settings, secrets and volumes that a pod names exist."""
    for workload in manifests.workloads:
        account = workload.spec.get("serviceAccountName", "default")
        if account not in manifests.names("ServiceAccount") | {"default"}:
            yield f"{workload.name}: there is no ServiceAccount/{account}"
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            for reference in every(workload.container, key):
                if (kind, reference["name"]) not in manifests.data:
                    yield f"{workload.name}: there is no {kind}/{reference['name']}"
        volumes = {volume["name"] for volume in workload.spec.get("volumes", [])} | workload.claims.keys()
        mounted = {mount["name"] for mount in workload.container.get("volumeMounts", [])}
        if volumes != mounted:
            yield f"{workload.name}: it has the volumes {sorted(volumes)} and mounts {sorted(mounted)}"


def targets(manifests: Manifests) -> Iterator[str]:
    """The targets of autoscalers and policies, and the Services of StatefulSets, exist."""
    for each in manifests.of("HorizontalPodAutoscaler", "ScaledObject"):
        target = each["spec"]["scaleTargetRef"]
        if target["name"] not in manifests.names(target["kind"]):
            yield f"{name_of(each)}: there is no {target['kind']}/{target['name']}"
    for each in manifests.of("StatefulSet"):
        if each["spec"]["serviceName"] not in manifests.names("Service"):
            yield f"{name_of(each)}: there is no Service/{each['spec']['serviceName']}"
    for each in manifests.of("HealthCheckPolicy", "GCPBackendPolicy", "GCPGatewayPolicy"):
        target = each["spec"]["targetRef"]
        if target["name"] not in manifests.names(target["kind"]):
            yield f"{name_of(each)}: there is no {target['kind']}/{target['name']}"
        for storage_class in every(each["spec"], "storageClassName"):
            if storage_class not in manifests.names("StorageClass"):
                yield f"{name_of(each)}: there is no StorageClass/{storage_class}"


def secret_sources(manifests: Manifests) -> Iterator[str]:
    """The sources of SecretSyncs exist."""
    classes = {each["metadata"]["name"]: each for each in manifests.of("SecretProviderClass")}
    for each in manifests.of("SecretSync"):
        spec = each["spec"]
        if spec["serviceAccountName"] not in manifests.names("ServiceAccount"):
            yield f"{name_of(each)}: there is no ServiceAccount/{spec['serviceAccountName']}"
        source = classes.get(spec["secretProviderClassName"])
        paths = re.findall(r'path: "(.+)"', source["spec"]["parameters"]["secrets"]) if source else []
        for read in spec["secretObject"]["data"]:
            if read["sourcePath"] not in paths:
                name = spec["secretProviderClassName"]
                yield f"{name_of(each)}: there is no path {read['sourcePath']} in SecretProviderClass/{name}"


def secret_keys(manifests: Manifests) -> Iterator[str]:
    """The keys of Secrets that volumes and KEDA use exist."""
    wanted = [
        (name_of(each), reference["name"], reference["key"])
        for each in manifests.of("TriggerAuthentication")
        for reference in each["spec"]["secretTargetRef"]
    ] + [
        (workload.name, secret["secretName"], item["key"])
        for workload in manifests.workloads
        for secret in every(workload.spec.get("volumes", []), "secret")
        for item in secret["items"]
    ]
    for user, secret, key in wanted:
        if key not in manifests.data.get(("Secret", secret), {}):
            yield f"{user}: there is no {key} in Secret/{secret}"
    for each in manifests.of("ScaledObject"):
        for reference in every(each, "authenticationRef"):
            if reference["name"] not in manifests.names("TriggerAuthentication"):
                yield f"{name_of(each)}: there is no TriggerAuthentication/{reference['name']}"


def ports(manifests: Manifests) -> Iterator[str]:
    """Services, probes and scrapes use existing ports of containers."""
    used = [
        (name_of(each), workload, port)
        for each in manifests.of("Service")
        for workload in manifests.selected(each["spec"]["selector"])
        for port in every(each["spec"], "targetPort")
    ]
    used += [
        (name_of(each), workload, port)
        for each in manifests.of("PodMonitoring")
        for workload in manifests.selected(each["spec"]["selector"]["matchLabels"])
        for port in every(each["spec"], "port")
    ]
    used += [
        (workload.name, workload, port)
        for workload in manifests.workloads
        for port in every(workload.container, "port")
    ]
    offered = {
        (each["metadata"]["name"], port["port"]) for each in manifests.of("Service") for port in each["spec"]["ports"]
    }
    for each in manifests.of("HTTPRoute"):
        for backends in every(each["spec"], "backendRefs"):
            for backend in backends:
                if (backend["name"], backend["port"]) not in offered:
                    yield f"{name_of(each)}: there is no Service/{backend['name']} with port {backend['port']}"
    for user, workload, port in used:
        if port not in workload.ports:
            yield f"{user}: {workload.name} has no port {port}"


def ports_let_in(manifests: Manifests) -> Iterator[str]:
    """NetworkPolicies allow only ports with a listener."""
    for each in manifests.of("NetworkPolicy"):
        for workload in _workloads(manifests, each["spec"]["podSelector"]):
            for port in every(each["spec"].get("ingress", []), "port"):
                if port not in workload.ports.values():
                    yield f"{name_of(each)}: {workload.name} does not listen on {port}"


def settings(manifests: Manifests) -> Iterator[str]:
    """Each process reads all of its variables, and starts with them."""
    for workload in manifests.ours:
        variables = manifests.environment(workload)
        with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
            keys.write("web=0123456789abcdef\n")
            keys.flush()
            if _is_mounted(manifests, workload, variables.get("API_KEYS_FILE", "")):
                variables["API_KEYS_FILE"] = keys.name
            reading = _Reading(variables)
            with patch.object(os, "environ", reading):
                try:
                    loaded = _LOADERS[workload.process or ""]()
                except SettingsError as error:
                    yield f"{workload.name}: {error}"
                    continue
        for name in sorted(variables.keys() - reading.names):
            yield f"{workload.name}: it has no setting {name}"
        yield from _listens(workload, loaded)


def probes(manifests: Manifests) -> Iterator[str]:
    """The paths of probes, load balancers and scrapes exist."""
    for workload in manifests.ours:
        paths = {get["path"] for get in every(workload.container, "httpGet")}
        for each in manifests.of("PodMonitoring"):
            if workload in manifests.selected(each["spec"]["selector"]["matchLabels"]):
                paths |= {endpoint["path"] for endpoint in each["spec"]["endpoints"]}
        if workload.process == "api":
            paths |= {path for each in manifests.of("HealthCheckPolicy") for path in every(each["spec"], "requestPath")}
        has = _api_has if workload.process == "api" else _consumer_has
        for path in sorted(paths):
            if not has(path):
                yield f"{workload.name}: there is no {path}"


def resources(manifests: Manifests) -> Iterator[str]:
    """Each container has requests and limits for its resources."""
    for workload in manifests.workloads:
        amounts = workload.container["resources"]
        for resource in ("cpu", "memory"):
            least, most = (_amount(amounts.get(bound, {}).get(resource, "0")) for bound in ("requests", "limits"))
            if not 0 < least <= most:
                yield f"{workload.name}: {resource} needs a request, and a limit that is not lower"


def stops(manifests: Manifests) -> Iterator[str]:
    """Kubernetes waits for the longest possible stop."""
    needs = {"api": _gunicorn("graceful_timeout"), "consumer": STOP_SECONDS}
    for workload in manifests.ours:
        before = sum(every(workload.container.get("lifecycle", {}), "seconds"))
        needed = before + needs.get(workload.process or "", 0) + _MARGIN_SECONDS
        grace = workload.spec["terminationGracePeriodSeconds"]
        if workload.process != "topics" and grace < needed:
            yield f"{workload.name}: {grace} s of grace, but a stop can take {needed:g} s"


def journal(manifests: Manifests) -> Iterator[str]:
    """The API's journal is on a volume that outlives the pod, and fits on the volume."""
    for workload in manifests.ours:
        if workload.process != "api":
            continue
        variables = manifests.environment(workload)
        mounts = {mount["mountPath"]: mount["name"] for mount in workload.container["volumeMounts"]}
        claim = workload.claims.get(mounts.get(variables["API_JOURNAL_DIR"], ""))
        if claim is None:
            yield f"{workload.name}: no volume that outlives the pod is mounted at {variables['API_JOURNAL_DIR']}"
            continue
        room = _amount(claim["spec"]["resources"]["requests"]["storage"])
        journals = int(variables["API_WORKERS"]) * _amount(variables["API_JOURNAL_MAX_BYTES"].removesuffix("B"))
        if journals > 0.9 * room:
            yield f"{workload.name}: its workers' journals do not fit into its volume"


def egress(manifests: Manifests) -> Iterator[str]:
    """The NetworkPolicies let each process connect to its servers."""
    for workload in manifests.ours:
        variables = manifests.environment(workload)
        wanted = {int(broker.rsplit(":", 1)[1]) for broker in variables.get("KAFKA_BROKERS", "").split(",") if broker}
        wanted |= {_MONGODB_PORT} if "MONGO_URI" in variables else set()
        allowed = {
            port["port"]
            for policy in manifests.of("NetworkPolicy")
            if workload in _workloads(manifests, policy["spec"]["podSelector"])
            for rule in policy["spec"].get("egress", [])
            for port in rule["ports"]
        }
        for port in sorted(wanted - allowed):
            yield f"{workload.name}: no NetworkPolicy allows egress to port {port}"


def partitions(manifests: Manifests) -> Iterator[str]:
    """The maximum of consumers is the number of partitions."""
    (topics,) = [workload for workload in manifests.ours if workload.process == "topics"]
    count = int(manifests.environment(topics)["KAFKA_PARTITIONS"])
    (consumer,) = [workload for workload in manifests.ours if workload.process == "consumer"]
    for each in manifests.of("HorizontalPodAutoscaler", "ScaledObject"):
        spec = each["spec"]
        if spec["scaleTargetRef"]["name"] == consumer.controller["metadata"]["name"]:
            most = spec.get("maxReplicas", spec.get("maxReplicaCount"))
            if most != count:
                yield f"{name_of(each)}: up to {most} consumers for {count} partitions"


def lag(manifests: Manifests) -> Iterator[str]:
    """KEDA connects to Kafka with the settings of the consumer."""
    words = {"PLAIN": "plaintext", "SCRAM-SHA-256": "scram_sha256", "SCRAM-SHA-512": "scram_sha512"}
    (consumer,) = [workload for workload in manifests.ours if workload.process == "consumer"]
    variables = manifests.environment(consumer)
    protocol = variables.get("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT")
    sasl = words[variables.get("KAFKA_SASL_MECHANISM", "PLAIN")] if protocol.startswith("SASL") else "none"
    tls = "enable" if protocol.endswith("SSL") else "disable"
    for each in manifests.of("ScaledObject"):
        for metadata in every(each["spec"], "metadata"):
            for key, variable in metadata.items():
                if key.endswith("FromEnv") and variable not in variables:
                    yield f"{name_of(each)}: {consumer.name} has no variable {variable}"
            if (metadata.get("sasl", "none"), metadata.get("tls", "disable")) != (sasl, tls):
                yield f"{name_of(each)}: sasl must be {sasl} and tls {tls}, as for the consumer"


def tls(manifests: Manifests) -> Iterator[str]:
    """Load balancers pass on only TLS and redirect plain HTTP, and no Service bypasses the Gateway."""
    listeners = {
        (each["metadata"]["name"], listener["name"]): listener["protocol"]
        for each in manifests.of("Gateway")
        for listener in each["spec"]["listeners"]
    }
    for each in manifests.of("HTTPRoute"):
        for parent in each["spec"]["parentRefs"]:
            protocol = listeners.get((parent["name"], parent["sectionName"]))
            if protocol is None:
                yield f"{name_of(each)}: there is no Gateway/{parent['name']} with a listener {parent['sectionName']}"
            elif protocol == "HTTP" and any(every(each["spec"], "backendRefs")):
                yield f"{name_of(each)}: it passes on requests without TLS"
            elif protocol == "HTTP" and set(every(each["spec"], "scheme")) != {"https"}:
                yield f"{name_of(each)}: it does not redirect to https"
    for each in manifests.of("Service"):
        if listeners and each["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{name_of(each)}: a {each['spec']['type']} lets clients in past the Gateway"


def public_paths(manifests: Manifests) -> Iterator[str]:
    """The internet reaches exactly the API's paths for clients."""
    for each in manifests.of("HTTPRoute"):
        if not any(every(each["spec"], "backendRefs")):
            continue
        matches = [path for rule in each["spec"]["rules"] for path in every(rule.get("matches", []), "path")]
        if not all("matches" in rule for rule in each["spec"]["rules"]):
            yield f"{name_of(each)}: a rule without matches passes every path"
        paths = {re.sub("<.*?>", "any", rule.rule) for rule in build_app(FakeBroker()).url_map.iter_rules()}
        for path in sorted(paths):
            passed = any(_matches(match, path) for match in matches)
            if path in INTERNAL_PATHS and passed:
                yield f"{name_of(each)}: it passes {path}, which is internal"
            elif path not in INTERNAL_PATHS and not passed:
                yield f"{name_of(each)}: it does not pass {path}, which clients use"
        for match in matches:
            if not any(_matches(match, path) for path in paths):
                yield f"{name_of(each)}: the API has no path {match['value']}"


def proxies(manifests: Manifests) -> Iterator[str]:
    """Behind a Gateway, only its proxies and this cluster reach the API, and the timeouts fit together."""
    if not manifests.of("Gateway"):
        return
    (api,) = [workload for workload in manifests.ours if workload.process == "api"]
    sources = [
        source
        for policy in manifests.of("NetworkPolicy")
        if api in _workloads(manifests, policy["spec"]["podSelector"])
        for rule in policy["spec"].get("ingress", [])
        for source in rule.get("from", [{"ipBlock": {"cidr": "0.0.0.0/0"}}])
    ]
    ranges = {source["ipBlock"]["cidr"] for source in sources if "ipBlock" in source}
    if ranges != GOOGLE_PROXIES:
        yield f"{api.name}: NetworkPolicies let in {sorted(ranges)}, not the load balancer's {sorted(GOOGLE_PROXIES)}"
    if _gunicorn("keepalive") <= GOOGLE_IDLE_SECONDS:
        yield f"{api.name}: it closes idle connections before the load balancer's {GOOGLE_IDLE_SECONDS} s"
    before = sum(every(api.container["lifecycle"], "seconds"))
    for each in manifests.of("GCPBackendPolicy"):
        policy = each["spec"]["default"]
        if policy["timeoutSec"] <= REQUEST_SECONDS + SEND_SECONDS:
            yield f"{name_of(each)}: its timeout is shorter than that of the API, {REQUEST_SECONDS + SEND_SECONDS:g} s"
        if policy["connectionDraining"]["drainingTimeoutSec"] > before:
            yield f"{name_of(each)}: it drains a pod for longer than its preStop of {before} s"


Rule = Callable[[Manifests], Iterator[str]]
RULES: tuple[Rule, ...] = (
    schemas,
    selectors,
    parts_of_pods,
    targets,
    secret_sources,
    secret_keys,
    ports,
    ports_let_in,
    settings,
    probes,
    resources,
    stops,
    journal,
    egress,
    partitions,
    lag,
    tls,
    public_paths,
    proxies,
)


class _Reading(dict[str, str]):
    """An environment that records the names of the variables that were read."""

    def __init__(self, variables: dict[str, str]) -> None:
        super().__init__(variables)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def _workloads(manifests: Manifests, selector: Object) -> list[Workload]:
    """The workloads that a label selector selects."""
    found = manifests.selected(selector.get("matchLabels", {}))
    for wanted in selector.get("matchExpressions", []):
        found = [workload for workload in found if workload.labels.get(wanted["key"]) in wanted["values"]]
    return found


def _selects(manifests: Manifests, selector: Object) -> bool:
    """Whether a label selector selects a pod, and at least one for each listed value."""
    lists: Iterable[Object] = selector.get("matchExpressions", [])
    for wanted in lists:
        there = {workload.labels.get(wanted["key"]) for workload in manifests.workloads}
        if not set(wanted["values"]) <= there:
            return False
    return bool(_workloads(manifests, selector))


def _is_mounted(manifests: Manifests, workload: Workload, file: str) -> bool:
    """Whether a file is a key of a Secret that is mounted in its folder."""
    mounts = {mount["mountPath"]: mount["name"] for mount in workload.container.get("volumeMounts", [])}
    name = mounts.get(str(Path(file).parent))
    for volume in workload.spec.get("volumes", []):
        if volume["name"] == name:
            return any(item["path"] == Path(file).name for item in volume.get("secret", {}).get("items", []))
    return False


def _listens(workload: Workload, loaded: Any) -> Iterator[str]:
    """A fault if the container does not have the port of the settings."""
    addresses: dict[str | None, Callable[[], Address]] = {
        "api": lambda: loaded.address,
        "consumer": lambda: loaded.metrics_address,
        "console": lambda: loaded.address,
    }
    if workload.process in addresses and addresses[workload.process]().port not in workload.ports.values():
        yield f"{workload.name}: it listens on {addresses[workload.process]()}, but has the ports {workload.ports}"


def _api_has(path: str) -> bool:
    try:
        build_app(FakeBroker()).url_map.bind("").match(path)
    except (NotFound, MethodNotAllowed):
        return False
    return True


def _consumer_has(path: str) -> bool:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    serve(Address("127.0.0.1", port), Health(), CollectorRegistry())
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code != 404
    return True


def _matches(match: Object, path: str) -> bool:
    """Whether an HTTPRoute's match of a path includes this path."""
    value: str = match["value"]
    return path == value or (match["type"] == "PathPrefix" and path.startswith(value.rstrip("/") + "/"))


def _gunicorn(setting: str) -> float:
    """A setting of api/gunicorn.conf.py, in seconds."""
    text = (ROOT / "api" / "gunicorn.conf.py").read_text("utf-8")
    (seconds,) = re.findall(rf"^{setting} = (\d+)$", text, re.MULTILINE)
    return float(seconds)


def _amount(text: str) -> float:
    """The value of a Kubernetes quantity, such as 250m or 64Mi."""
    units = {"m": 1e-3, "": 1.0, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", text).groups()  # type: ignore[union-attr]
    return float(number) * units[unit]
