"""Schemas for the custom resources that we use; kubernetes-validate has only those of Kubernetes itself."""

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "required": list(required),
        "properties": required | (optional or {}),
        "additionalProperties": False,
    }


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


_SCALED_OBJECT = _object(
    {
        "scaleTargetRef": _object({"apiVersion": _TEXT, "kind": _TEXT, "name": _TEXT}),
        "minReplicaCount": _COUNT,
        "maxReplicaCount": _COUNT,
        "pollingInterval": _COUNT,
        "cooldownPeriod": _COUNT,
        "fallback": _object({"failureThreshold": _COUNT, "replicas": _COUNT, "behavior": _TEXT}),
        "advanced": _object(
            {
                "restoreToOriginalReplicaCount": {"type": "boolean"},
                # The type of Kubernetes' HorizontalPodAutoscaler, whose schema is checked there.
                "horizontalPodAutoscalerConfig": _object({"name": _TEXT, "behavior": {"type": "object"}}),
            }
        ),
        "triggers": _list(
            _object(
                {
                    "type": {"const": "kafka"},
                    "metricType": {"enum": ["AverageValue", "Value"]},
                    "metadata": _object(
                        dict.fromkeys(
                            (
                                "bootstrapServersFromEnv",
                                "consumerGroupFromEnv",
                                "topicFromEnv",
                                "lagThreshold",
                                "activationLagThreshold",
                                "offsetResetPolicy",
                                "allowIdleConsumers",
                                "scaleToZeroOnInvalidOffset",
                                "excludePersistentLag",
                            ),
                            _TEXT,
                        ),
                        {
                            "sasl": {"enum": ["none", "plaintext", "scram_sha256", "scram_sha512"]},
                            "tls": {"enum": ["enable", "disable"]},
                        },
                    ),
                },
                {"authenticationRef": _object({"name": _TEXT})},
            )
        ),
    }
)

_HTTP_ROUTE = _object(
    {
        "parentRefs": _list(_object({"name": _TEXT, "sectionName": _TEXT})),
        "hostnames": _list(_TEXT),
        "rules": _list(
            _object(
                {},
                {
                    "matches": _list(
                        _object({"path": _object({"type": {"enum": ["Exact", "PathPrefix"]}, "value": _TEXT})})
                    )
                    | {"maxItems": 64},
                    "filters": _list(
                        _object(
                            {
                                "type": {"const": "RequestRedirect"},
                                "requestRedirect": _object(
                                    {"scheme": {"enum": ["http", "https"]}, "statusCode": {"enum": [301, 302]}}
                                ),
                            }
                        )
                    ),
                    "backendRefs": _list(_object({"name": _TEXT, "port": _COUNT})),
                },
            )
        ),
    }
)
_TARGET = _object({"group": _TEXT, "kind": _TEXT, "name": _TEXT})
_SWITCH = _object({"enabled": {"type": "boolean"}})
_HEALTH_CHECK = _object(
    {
        "checkIntervalSec": _COUNT,
        "timeoutSec": _COUNT,
        "healthyThreshold": _COUNT,
        "unhealthyThreshold": _COUNT,
        "logConfig": _SWITCH,
        "config": _object(
            {
                "type": {"const": "HTTP"},
                "httpHealthCheck": _object({"portSpecification": {"const": "USE_SERVING_PORT"}, "requestPath": _TEXT}),
            }
        ),
    }
)
_BACKEND = _object(
    {"timeoutSec": _COUNT, "connectionDraining": _object({"drainingTimeoutSec": _COUNT}), "logging": _SWITCH}
)

SPECS: dict[tuple[str, str], dict[str, Any]] = {
    ("gateway.networking.k8s.io/v1", "Gateway"): _object(
        {
            "gatewayClassName": {"const": "gke-l7-global-external-managed"},
            "addresses": _list(_object({"type": {"const": "NamedAddress"}, "value": _TEXT})),
            "listeners": _list(_object({"name": _TEXT, "protocol": {"enum": ["HTTP", "HTTPS"]}, "port": _COUNT})),
        }
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _HTTP_ROUTE,
    ("networking.gke.io/v1", "HealthCheckPolicy"): _object({"targetRef": _TARGET, "default": _HEALTH_CHECK}),
    ("networking.gke.io/v1", "GCPBackendPolicy"): _object({"targetRef": _TARGET, "default": _BACKEND}),
    ("networking.gke.io/v1", "GCPGatewayPolicy"): _object(
        {"targetRef": _TARGET, "default": _object({"sslPolicy": _TEXT})}
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): _SCALED_OBJECT,
    ("keda.sh/v1alpha1", "TriggerAuthentication"): _object(
        {"secretTargetRef": _list(_object({"parameter": _TEXT, "name": _TEXT, "key": _TEXT}))}
    ),
    ("monitoring.googleapis.com/v1", "PodMonitoring"): _object(
        {
            "selector": _object({"matchLabels": {"type": "object"}}),
            "endpoints": _list(_object({"port": _TEXT, "path": _TEXT, "interval": _TEXT, "timeout": _TEXT})),
        }
    ),
    ("secrets-store.csi.x-k8s.io/v1", "SecretProviderClass"): _object(
        {"provider": {"const": "gke"}, "parameters": _object({"secrets": _TEXT})}
    ),
    ("secret-sync.gke.io/v1", "SecretSync"): _object(
        {
            "serviceAccountName": _TEXT,
            "secretProviderClassName": _TEXT,
            "secretObject": _object({"type": _TEXT, "data": _list(_object({"sourcePath": _TEXT, "targetKey": _TEXT}))}),
        }
    ),
}
"""The schema of `spec`, by API version and kind."""


def faults(resource: dict[str, Any]) -> Iterator[str]:
    """The errors in a custom resource's kind or spec."""
    schema = SPECS.get((resource["apiVersion"], resource["kind"]))
    if schema is None:
        yield f"{resource['apiVersion']} is an unknown kind"
        return
    for error in Draft202012Validator(schema).iter_errors(resource["spec"]):
        yield f"{error.message} (at {error.json_path})"
