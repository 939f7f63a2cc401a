"""The content of docker-compose.yml: settings, ports, limits, health checks."""

import re
from typing import Any

import pytest
import yaml

from tests import ROOT

SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
IMAGES = ("api", "consumer", "loadtest", "ops/console", "ops/export")
DOCKERFILES = [(ROOT / name / "Dockerfile").read_text() for name in IMAGES]
OURS = ("api", "consumer", "console", "topics", "locust", "export")

# The addresses and paths inside the containers, and the settings of `make run` alone.
FIXED = {
    *(
        "API_ADDR",
        "METRICS_ADDR",
        "EXPORT_METRICS_ADDR",
        "API_JOURNAL_DIR",
        "API_KEYS_FILE",
        "KAFKA_BROKERS",
        "MONGO_URI",
    ),
    *("KAFKA_SECURITY_PROTOCOL", "KAFKA_SASL_MECHANISM", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"),
    *("KAFKA_SSL_CAFILE", "LOCAL_BROKER", "LOCAL_DATA_DIR"),
}


def test_every_setting_that_may_vary_reaches_one_of_our_containers() -> None:
    settings = set(re.findall(r"^(?:# )?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    passed_on = {name for service in OURS for name in SERVICES[service]["environment"]}
    assert settings - FIXED - passed_on == set(), "pass it on in docker-compose.yml, or fix it there"


def test_only_the_documented_ports_are_published_and_on_this_machine_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert {int(port.split(":")[1]) for port in published} == {
        3000,
        8080,
        8081,
        8082,
        8083,
        8084,
        8085,
        8089,
        9090,
        9092,
        27017,
    }


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_limits_for_its_resources_and_logs(name: str) -> None:
    assert {"mem_limit", "cpus"} <= SERVICES[name].keys()
    assert SERVICES[name]["logging"]["options"]["max-size"]


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"api", "consumer", "console", "locust", "export"}))
def test_every_service_has_a_health_check_of_its_own_or_that_of_our_image(name: str) -> None:
    assert SERVICES[name]["healthcheck"]


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_a_read_only_root_and_no_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - set(OURS)))
def test_third_party_images_have_a_full_version(name: str) -> None:
    assert re.search(r":v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_make_up_starts_neither_the_load_test_nor_the_export() -> None:
    assert {name for name in SERVICES if "profiles" in SERVICES[name]} == {"locust", "export"}


def test_no_image_is_built_twice() -> None:
    built = [service["image"] for service in SERVICES.values() if "build" in service]
    assert len(set(built)) == len(built)


def test_our_images_are_never_pulled() -> None:
    assert {name for name in SERVICES if SERVICES[name].get("pull_policy") == "never"} == set(OURS)


def test_the_build_context_has_exactly_the_files_that_our_images_copy() -> None:
    copied = re.findall(r"^COPY ([a-z]\S*) ", "".join(DOCKERFILES), re.MULTILINE)
    given = re.findall(r"^!(.*)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(set(copied)) == sorted(given)


def test_our_images_have_the_same_base_by_digest() -> None:
    api, *others = DOCKERFILES
    base = re.search(r"ARG PYTHON_IMAGE=python:3\.13\.\d+-slim-trixie@sha256:[0-9a-f]{64}\n", api)
    assert base
    assert all(base[0] in other for other in others)


def services_of(override: str) -> set[str]:
    """The services that a file of tests/compose overrides. Its tags, such as !reset, are not plain YAML."""
    return set(re.findall(r"^  (\S+):$", (ROOT / "tests" / "compose" / override).read_text(), re.MULTILINE))


def test_the_tests_of_the_stack_choose_all_published_ports() -> None:
    assert services_of("ports.yml") == {name for name, service in SERVICES.items() if "ports" in service}


def test_the_tests_of_the_stack_have_a_stand_in_for_every_image() -> None:
    assert services_of("stand-ins.yml") == SERVICES.keys()
