"""The Kubernetes manifests fit together and fit the code, and the rules that check this find planted faults."""

import shutil
from pathlib import Path
from subprocess import CalledProcessError
from typing import NamedTuple

import pytest
import yaml

from tests.apps import build_app
from tests.deployment import rules
from tests.deployment.manifests import KUBERNETES, OVERLAYS, Manifests, build
from tests.deployment.rules import RULES, Rule
from tests.fakes import FakeBroker


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return build(KUBERNETES / "overlays" / request.param)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_manifests_keep_the_rule(manifests: Manifests, rule: Rule) -> None:
    assert list(rule(manifests)) == []


def test_the_components_for_scaling_are_interchangeable(tmp_path: Path) -> None:
    # The documented variant without KEDA: an HPA by CPU, and no TriggerAuthentication.
    shutil.copytree(KUBERNETES, tmp_path, dirs_exist_ok=True)
    gke = tmp_path / "overlays" / "gke" / "kustomization.yaml"
    text = gke.read_text()
    for line in ("  - triggerauthentication.yaml\n", "  - path: scaledobject.yaml\n"):
        assert line in text
        text = text.replace(line, "")
    gke.write_text(text.replace("  - ../../components/consumer-keda", "  - ../../components/consumer-hpa"))

    built = build(gke.parent)

    assert [fault for rule in RULES for fault in rule(built)] == []
    assert not built.of("ScaledObject")
    assert built.names("HorizontalPodAutoscaler") == {"pulse-api", "pulse-consumer"}


def test_all_objects_except_cluster_scoped_ones_are_in_the_namespace(manifests: Manifests) -> None:
    for each in manifests.objects:
        if each["kind"] not in ("Namespace", "StorageClass"):
            assert each["metadata"]["namespace"] == "pulse-pipeline"


def test_the_namespace_accounts_and_settings_come_before_the_workloads(manifests: Manifests) -> None:
    kinds = [each["kind"] for each in manifests.objects]
    users = min(kinds.index(kind) for kind in ("Deployment", "StatefulSet", "Job"))
    assert kinds[0] == "Namespace"
    for kind in ("ServiceAccount", "ConfigMap", "Service"):
        last = len(kinds) - 1 - kinds[::-1].index(kind)
        assert last < users


def test_every_pod_of_ours_runs_as_the_images_user_and_without_a_token(manifests: Manifests) -> None:
    for workload in manifests.ours:
        assert workload.spec["securityContext"]["runAsUser"] == 10001
        assert workload.spec["automountServiceAccountToken"] is False
        assert workload.container["securityContext"]["readOnlyRootFilesystem"] is True


def test_every_image_has_a_tag(manifests: Manifests) -> None:
    for workload in manifests.workloads:
        assert workload.container["image"].rpartition(":")[2] not in ("", "latest", "unset")


def test_no_secret_is_in_the_repository(manifests: Manifests) -> None:
    for secret in manifests.of("Secret"):
        values = manifests.data["Secret", secret["metadata"]["name"]]
        assert values == {"MONGO_URI": "mongodb://mongodb:27017"}


class Fault(NamedTuple):
    """A replacement of a text in a file of kubernetes/, and the text that the rule must yield for it."""

    rule: Rule
    file: str
    text: str
    planted: str
    found: str
    overlay: str = "gke"


PLANTED = {
    "a misspelt field": Fault(
        rules.schemas,
        "base/api/statefulset.yaml",
        "failureThreshold: 66",
        "failureTreshold: 66",
        "'failureTreshold' was unexpected",
    ),
    "a misspelt field of a custom resource": Fault(
        rules.schemas,
        "components/consumer-keda/scaledobject.yaml",
        "pollingInterval: 15",
        "pollInterval: 15",
        "'pollInterval' was unexpected",
    ),
    "a misspelt trigger": Fault(
        rules.schemas,
        "overlays/gke/scaledobject.yaml",
        'lagThreshold: "1000"',
        'lagTreshold: "1000"',
        "'lagTreshold' was unexpected",
    ),
    "a service that selects nothing": Fault(
        rules.selectors,
        "base/api/service.yaml",
        "app.kubernetes.io/name: pulse-api",
        "app.kubernetes.io/name: pulse-apis",
        "Service/pulse-api: its selector matches no pod",
    ),
    "a budget that selects nothing": Fault(
        rules.selectors,
        "base/consumer/poddisruptionbudget.yaml",
        "app.kubernetes.io/name: pulse-consumer",
        "app.kubernetes.io/name: consumer",
        "PodDisruptionBudget/pulse-consumer: selector",
    ),
    "a policy for a pod that is not there": Fault(
        rules.selectors,
        "overlays/local/network-policies.yaml",
        "values: [pulse-api, pulse-consumer, pulse-console, pulse-topics, pulse-export, pulse-export-metrics]",
        "values: [pulse-api, pulse-consumer, pulse-topic]",
        "NetworkPolicy/kafka: podSelector",
        "local",
    ),
    "a scrape that selects nothing": Fault(
        rules.selectors,
        "overlays/gke/monitoring.yaml",
        "app.kubernetes.io/name: pulse-api",
        "app: pulse-api",
        "PodMonitoring/pulse-api: selector",
    ),
    "a wrong probe path of the API": Fault(
        rules.probes,
        "base/api/statefulset.yaml",
        "path: /health/ready, port: http",
        "path: /healthz/ready, port: http",
        "StatefulSet/pulse-api: there is no /healthz/ready",
    ),
    "a wrong probe path of the consumer": Fault(
        rules.probes,
        "base/consumer/deployment.yaml",
        "path: /health/live",
        "path: /live",
        "Deployment/pulse-consumer: there is no /live",
    ),
    "a wrong scrape path": Fault(
        rules.probes,
        "overlays/gke/monitoring.yaml",
        "path: /metrics",
        "path: /metric",
        "StatefulSet/pulse-api: there is no /metric",
    ),
    "an unknown setting": Fault(
        rules.settings,
        "base/consumer.env",
        "CONSUMER_BATCH_SIZE=100",
        "CONSUMER_BATCHSIZE=100",
        "Deployment/pulse-consumer: it has no setting CONSUMER_BATCHSIZE",
    ),
    "a setting of another process": Fault(
        rules.settings,
        "base/topics.env",
        "KAFKA_PARTITIONS=3",
        "KAFKA_PARTITIONS=3\nCONSUMER_BATCH_SIZE=100",
        "Job/pulse-topics: it has no setting CONSUMER_BATCH_SIZE",
    ),
    "a value that is not allowed": Fault(
        rules.settings,
        "base/consumer.env",
        "CONSUMER_FLUSH_INTERVAL=1s",
        "CONSUMER_FLUSH_INTERVAL=1",
        "CONSUMER_FLUSH_INTERVAL=1 is not allowed",
    ),
    "a file of keys that is mounted elsewhere": Fault(
        rules.settings,
        "overlays/gke/api.env",
        "API_KEYS_FILE=/etc/pulse/keys/api-keys",
        "API_KEYS_FILE=/etc/pulse/api-keys",
        "API_KEYS_FILE=/etc/pulse/api-keys is not allowed",
    ),
    "a port that the settings do not have": Fault(
        rules.settings,
        "base/api.env",
        "API_ADDR=:8080",
        "API_ADDR=:8000",
        "StatefulSet/pulse-api: it listens on :8000",
    ),
    "a service to a port that is not there": Fault(
        rules.ports,
        "base/consumer/service.yaml",
        "targetPort: metrics",
        "targetPort: http",
        "Service/pulse-consumer: Deployment/pulse-consumer has no port http",
    ),
    "a policy for a port that is not there": Fault(
        rules.ports_let_in,
        "base/network-policies.yaml",
        "port: 8080",
        "port: 80",
        "NetworkPolicy/api-ingress: StatefulSet/pulse-api does not listen on 80",
        "local",
    ),
    "a secret that no manifest creates": Fault(
        rules.parts_of_pods,
        "overlays/gke/consumer.yaml",
        "name: pulse-mongo",
        "name: pulse-mongodb",
        "Deployment/pulse-consumer: there is no Secret/pulse-mongodb",
    ),
    "a secret's key that is not there": Fault(
        rules.secret_keys,
        "overlays/gke/triggerauthentication.yaml",
        "key: KAFKA_SASL_PASSWORD",
        "key: password",
        "TriggerAuthentication/pulse-kafka: there is no password in Secret/pulse-kafka",
    ),
    "a secret's source that is not there": Fault(
        rules.secret_sources,
        "overlays/gke/secrets.yaml",
        "sourcePath: uri",
        "sourcePath: url",
        "SecretSync/pulse-mongo: there is no path url in SecretProviderClass/pulse-mongo",
    ),
    "an account that is not there": Fault(
        rules.parts_of_pods,
        "base/topics/job.yaml",
        "serviceAccountName: pulse-topics",
        "serviceAccountName: pulse",
        "Job/pulse-topics: there is no ServiceAccount/pulse",
    ),
    "an autoscaler of a missing target": Fault(
        rules.targets,
        "base/api/horizontalpodautoscaler.yaml",
        "kind: StatefulSet",
        "kind: Deployment",
        "HorizontalPodAutoscaler/pulse-api: there is no Deployment/pulse-api",
    ),
    "a request above its limit": Fault(
        rules.resources,
        "base/api/statefulset.yaml",
        "memory: 320Mi",
        "memory: 1Gi",
        "StatefulSet/pulse-api: memory needs a request",
    ),
    "a grace shorter than the drain": Fault(
        rules.stops,
        "base/api/statefulset.yaml",
        "terminationGracePeriodSeconds: 60",
        "terminationGracePeriodSeconds: 30",
        "StatefulSet/pulse-api: 30 s of grace, but a stop can take 50 s",
        "local",
    ),
    "a journal that is lost with the pod": Fault(
        rules.journal,
        "base/api.env",
        "API_JOURNAL_DIR=/var/lib/pulse/journal",
        "API_JOURNAL_DIR=/tmp/journal",
        "StatefulSet/pulse-api: no volume that outlives the pod is mounted at /tmp/journal",
    ),
    "a journal larger than its volume": Fault(
        rules.journal,
        "overlays/gke/api.env",
        "API_JOURNAL_MAX_BYTES=4GiB",
        "API_JOURNAL_MAX_BYTES=5GiB",
        "StatefulSet/pulse-api: its workers' journals do not fit",
    ),
    "brokers behind a closed port": Fault(
        rules.egress,
        "overlays/gke/kafka.env",
        "kafka.example.com:9092",
        "kafka.example.com:9093",
        "StatefulSet/pulse-api: no NetworkPolicy allows egress to port 9093",
    ),
    "more consumers than partitions": Fault(
        rules.partitions,
        "components/consumer-keda/scaledobject.yaml",
        "maxReplicaCount: 3",
        "maxReplicaCount: 6",
        "ScaledObject/pulse-consumer: up to 6 consumers for 3 partitions",
    ),
    "a variable that the consumer does not have": Fault(
        rules.lag,
        "overlays/gke/scaledobject.yaml",
        "topicFromEnv: KAFKA_TOPIC",
        "topicFromEnv: TOPIC",
        "ScaledObject/pulse-consumer: Deployment/pulse-consumer has no variable TOPIC",
    ),
    "a health check of a path that is not there": Fault(
        rules.probes,
        "overlays/gke/gateway-policies.yaml",
        "requestPath: /health/ready",
        "requestPath: /healthz",
        "StatefulSet/pulse-api: there is no /healthz",
    ),
    "a policy for a service that is not there": Fault(
        rules.targets,
        "overlays/gke/gateway-policies.yaml",
        "kind: Service, name: pulse-api",
        "kind: Service, name: pulse",
        "HealthCheckPolicy/pulse-api: there is no Service/pulse",
    ),
    "a route to a port that is not there": Fault(
        rules.ports,
        "overlays/gke/gateway.yaml",
        "{name: pulse-api, port: 80}",
        "{name: pulse-api, port: 8080}",
        "HTTPRoute/pulse-api: there is no Service/pulse-api with port 8080",
    ),
    "events without TLS": Fault(
        rules.tls,
        "overlays/gke/gateway.yaml",
        "sectionName: https",
        "sectionName: http",
        "HTTPRoute/pulse-api: it passes on requests without TLS",
    ),
    "a listener that is not there": Fault(
        rules.tls,
        "overlays/gke/gateway.yaml",
        "{name: http, ",
        "{name: plain, ",
        "HTTPRoute/pulse-https: there is no Gateway/pulse with a listener http",
    ),
    "a redirect to HTTP": Fault(
        rules.tls,
        "overlays/gke/gateway.yaml",
        "scheme: https",
        "scheme: http",
        "HTTPRoute/pulse-https: it does not redirect to https",
    ),
    "a load balancer beside the Gateway": Fault(
        rules.tls,
        "base/api/service.yaml",
        "type: ClusterIP\n  selector",
        "type: LoadBalancer\n  selector",
        "Service/pulse-api: a LoadBalancer lets clients in",
    ),
    "metrics on the internet": Fault(
        rules.public_paths,
        "overlays/gke/gateway.yaml",
        "{type: Exact, value: /pulse.js}",
        "{type: PathPrefix, value: /}",
        "HTTPRoute/pulse-api: it passes /metrics, which is internal",
    ),
    "probes on the internet": Fault(
        rules.public_paths,
        "overlays/gke/gateway.yaml",
        "{type: Exact, value: /health}",
        "{type: PathPrefix, value: /health}",
        "HTTPRoute/pulse-api: it passes /health/live, which is internal",
    ),
    "a client's path that is not passed": Fault(
        rules.public_paths,
        "overlays/gke/gateway.yaml",
        "value: /v1}",
        "value: /v1/batch}",
        "HTTPRoute/pulse-api: it does not pass /v1/projects/any/settings, which clients use",
    ),
    "a path that the API does not have": Fault(
        rules.public_paths,
        "overlays/gke/gateway.yaml",
        "{type: Exact, value: /openapi.json}",
        "{type: Exact, value: /swagger.json}",
        "HTTPRoute/pulse-api: the API has no path /swagger.json",
    ),
    "proxies behind a closed port": Fault(
        rules.proxies,
        "overlays/gke/api-ingress.yaml",
        "        - ipBlock: {cidr: 35.191.0.0/16}\n",
        "",
        "StatefulSet/pulse-api: NetworkPolicies let in ['130.211.0.0/22']",
    ),
    "an API that all addresses reach": Fault(
        rules.proxies,
        "overlays/gke/kustomization.yaml",
        "  - path: api-ingress.yaml\n",
        "",
        "StatefulSet/pulse-api: NetworkPolicies let in ['0.0.0.0/0']",
    ),
    "a load balancer with too short a timeout": Fault(
        rules.proxies,
        "overlays/gke/gateway-policies.yaml",
        "timeoutSec: 60",
        "timeoutSec: 30",
        "GCPBackendPolicy/pulse-api: its timeout is shorter than that of the API",
    ),
    "a pod that stops before it is drained": Fault(
        rules.proxies,
        "overlays/gke/api.yaml",
        "seconds: 40",
        "seconds: 10",
        "GCPBackendPolicy/pulse-api: it drains a pod for longer than its preStop of 10 s",
    ),
    "another mechanism than the consumer's": Fault(
        rules.lag,
        "overlays/gke/kafka.env",
        "KAFKA_SASL_MECHANISM=PLAIN",
        "KAFKA_SASL_MECHANISM=SCRAM-SHA-512",
        "ScaledObject/pulse-consumer: sasl must be scram_sha512",
    ),
}


@pytest.mark.parametrize("fault", PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_fault_is_found(fault: Fault, tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path, dirs_exist_ok=True)
    file = tmp_path / fault.file
    text = file.read_text()
    assert fault.text in text
    file.write_text(text.replace(fault.text, fault.planted))

    found = list(fault.rule(build(tmp_path / "overlays" / fault.overlay)))

    assert any(fault.found in each for each in found), found


def test_an_overlay_with_a_missing_resource_cannot_be_built(tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path, dirs_exist_ok=True)
    (tmp_path / "base" / "api" / "service.yaml").unlink()

    with pytest.raises(CalledProcessError) as error:
        build(tmp_path / "overlays" / "gke")

    assert "service.yaml" in error.value.stderr


@pytest.mark.parametrize(
    "path", ["/docs/../metrics", "/docs/%2e%2e/metrics", "/docs/..%2fmetrics", "/v1//metrics", "/api/v1/../../metrics"]
)
def test_no_path_under_a_public_path_leads_to_the_metrics(path: str) -> None:
    answer = build_app(FakeBroker()).test_client().get(path)
    assert answer.status_code == 404
    assert "pulse_api_" not in answer.text


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_patch_is_one_document_as_kubectl_before_1_31_requires(overlay: str) -> None:
    folder = KUBERNETES / "overlays" / overlay
    patches = yaml.safe_load((folder / "kustomization.yaml").read_text()).get("patches", [])
    several = [
        patch["path"] for patch in patches if "path" in patch and "\n---\n" in (folder / patch["path"]).read_text()
    ]
    assert several == []
