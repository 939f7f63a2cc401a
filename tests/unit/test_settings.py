"""Settings: defaults, valid values, errors about invalid ones, and no secrets in the output."""

import io
import json
import logging
import logging.config
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.addresses import Address
from common.environment import Variable, variables
from common.errors import SettingsError
from common.logs import log_settings, logging_config
from common.settings import (
    ApiSettings,
    ConsoleSettings,
    ConsumerSettings,
    ExportSettings,
    KafkaSettings,
    load_api_settings,
    load_console_settings,
    load_consumer_settings,
    load_export_settings,
    load_topic_settings,
    own_write_key,
)
from ops import settings_page


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in declared():
        monkeypatch.delenv(name, raising=False)


def declared() -> dict[str, Variable[Any]]:
    """Every variable, by name."""
    return {name: each for subject in settings_page.by_subject().values() for name, each in subject.items()}


def test_defaults_of_the_api() -> None:
    api = load_api_settings()
    assert (api.address, api.threads, api.queue_capacity) == (Address("", 8080), 4, 10_000)


def test_defaults_of_the_consumer() -> None:
    consumer = load_consumer_settings()
    assert (consumer.batch_size, consumer.flush_interval, consumer.group_id) == (100, 1.0, "pulse-consumer-group")


def test_defaults_of_the_topics() -> None:
    topics = load_topic_settings()
    assert (topics.kafka.topic, topics.kafka.dlq_topic) == ("pulse.events.v1", "pulse.events.dlq.v1")
    assert (topics.partitions, topics.replication_factor) == (3, 1)


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_THREADS", "")
    assert load_api_settings().threads == 4


def test_an_empty_refused_topic_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_api_settings().kafka.refused_topic == "pulse.refused.v1"
    monkeypatch.setenv("KAFKA_REFUSED_TOPIC", "")
    assert load_api_settings().kafka.refused_topic is None


@pytest.mark.parametrize(("value", "seconds"), [("500ms", 0.5), ("1s", 1.0), ("1.5s", 1.5), ("2m", 120.0)], ids=str)
def test_durations(monkeypatch: pytest.MonkeyPatch, value: str, seconds: float) -> None:
    monkeypatch.setenv("CONSUMER_FLUSH_INTERVAL", value)
    assert load_consumer_settings().flush_interval == seconds


def test_several_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", "one:9092, two:9093")
    assert load_api_settings().kafka.brokers == (Address("one", 9092), Address("two", 9093))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_ADDR", "8080"),
        ("API_ADDR", ":0"),
        ("API_ADDR", ":65536"),
        ("API_WORKERS", "0"),
        ("API_WORKERS", "two"),
        ("API_QUEUE_CAPACITY", "99"),
        ("API_THREADS", "1_0"),
        ("API_THREADS", "٤"),
        ("API_THREADS", "+4"),
        ("API_THREADS", "4" * 5000),
        ("API_JOURNAL_MAX_BYTES", "١٢٨MiB"),
        ("API_JOURNAL_MAX_BYTES", "4" * 5000),
        ("KAFKA_BROKERS", "localhost"),
        ("KAFKA_BROKERS", "a:1,,b:2"),
        ("KAFKA_BROKERS", ":9092"),
        ("KAFKA_BROKERS", "localhost:99999"),
        ("KAFKA_BROKERS", "localhost:9092,a..b:9092"),
        ("KAFKA_TOPIC", "with space"),
        ("KAFKA_DLQ_TOPIC", "pulse.events.v1"),
        ("KAFKA_REFUSED_TOPIC", "pulse.events.v1"),
        ("KAFKA_REFUSED_TOPIC", "pulse.events.dlq.v1"),
        ("API_REFUSED_BODIES", "no"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("KAFKA_TOPIC", ".."),
        ("KAFKA_COMPRESSION", "brotli"),
        ("KAFKA_SSL_CAFILE", "/no/such/file"),
        ("API_KEYS_FILE", "/no/such/file"),
        ("API_CORS_ORIGINS", "shop.example"),
        ("API_CORS_ORIGINS", "https://shop.example/"),
        ("API_CORS_ORIGINS", "https://*.shop.example"),
        ("API_CORS_ORIGINS", "https://shop.example:443"),
        ("API_CORS_ORIGINS", "http://[::1]:80"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^{name}={re.escape(value)} is not allowed: give .+$"):
        load_api_settings()


@pytest.mark.parametrize("value", ["shop.example", "http://shop.example/path", "http://one,http://two"])
def test_the_api_of_browsers_is_one_url(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CONSOLE_PUBLIC_API_URL", value)
    with pytest.raises(SettingsError, match="give an http:// or https:// URL without a path"):
        load_console_settings()


@pytest.mark.parametrize("value", ["5", "1h", "0s", "-1s", "1 s", "61m", "١s"])
def test_a_wrong_duration_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CONSUMER_FLUSH_INTERVAL", value)
    with pytest.raises(SettingsError, match="such as 500ms, 1s or 2m"):
        load_consumer_settings()


@pytest.mark.parametrize("value", ["1_0", "٠", "1.1", "-0.5", "nan", "half", "."])
def test_a_wrong_ratio_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CONSUMER_DLQ_MAX_RATIO", value)
    with pytest.raises(SettingsError, match=r"a number from 0 to 1, such as 0\.5"):
        load_consumer_settings()


@pytest.mark.parametrize("value", ["a..b", "a.", ".a", "a$b", "system.users", "a" * 101])
def test_a_collection_name_that_mongodb_rejects_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MONGO_COLLECTION", value)
    with pytest.raises(SettingsError, match=f"^MONGO_COLLECTION={re.escape(value)} is not allowed: give letters"):
        load_consumer_settings()


def test_a_wrong_value_that_may_hold_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGO_URI", "mongo://user:secret@host")
    with pytest.raises(SettingsError) as raised:
        load_consumer_settings()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("KAFKA_BROKERS", "sasl://user:s3cret@kafka:9092"), ("API_CORS_ORIGINS", "https://user:s3cret@shop.example")],
)
def test_a_login_in_a_setting_that_has_none_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^{name}=\(not shown\) is not allowed: give "):
        load_api_settings()


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        ("web=s1,app=s2", [("web", "s1"), ("app", "s2")]),
        ("s1, web=s2", [("key1", "s1"), ("web", "s2")]),
        ("web=old,web=new", [("web", "old"), ("web", "new")]),
        ("web=a=b==", [("web", "a=b==")]),
        ("", []),
    ],
)
def test_write_keys(monkeypatch: pytest.MonkeyPatch, value: str, keys: list[tuple[str, str]]) -> None:
    monkeypatch.setenv("API_KEYS", value)
    assert [(key.name, key.secret) for key in load_api_settings().access.keys] == keys


@pytest.mark.parametrize("value", ["web=", "web=s1,", "=s1", "web==s1", "c2VjcmV0==", "two words", "web=ä", "w b=s1"])
def test_a_malformed_write_key_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("API_KEYS", value)
    with pytest.raises(SettingsError, match=r"^API_KEYS=\(not shown\) is not allowed: give name=secret, "):
        load_api_settings()


def test_a_wrong_line_in_the_file_of_keys_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("web=good\nforgotten secret\n")
    monkeypatch.setenv("API_KEYS_FILE", str(tmp_path / "keys"))
    with pytest.raises(SettingsError, match=r"line 2 is not") as raised:
        load_api_settings()
    assert "secret" not in str(raised.value).replace("name=secret", "")


def test_the_tools_send_with_the_first_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert own_write_key() is None
    (tmp_path / "keys").write_text("# ours\napp=of-the-file\n")
    monkeypatch.setenv("API_KEYS_FILE", str(tmp_path / "keys"))
    assert own_write_key() == "of-the-file"
    monkeypatch.setenv("API_KEYS", "web=first,app=second")
    assert own_write_key() == "first"


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("*", {"*"}),
        ("https://shop.example, http://localhost:3000", {"https://shop.example", "http://localhost:3000"}),
        ("HTTPS://Shop.Example,http://[::1]:8000", {"https://shop.example", "http://[::1]:8000"}),
        ("", set()),
    ],
)
def test_origins(monkeypatch: pytest.MonkeyPatch, value: str, origins: set[str]) -> None:
    monkeypatch.setenv("API_CORS_ORIGINS", value)
    assert load_api_settings().access.origins == origins


def test_sasl_needs_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    with pytest.raises(SettingsError, match="KAFKA_SASL_USERNAME"):
        load_api_settings()


def test_secrets_are_not_printed_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "user")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "secret-1")
    monkeypatch.setenv("MONGO_URI", "mongodb://user:secret-2@host")
    monkeypatch.setenv("API_KEYS", "web=secret-3")
    assert "secret" not in repr(load_consumer_settings()) + repr(load_api_settings())


@pytest.mark.parametrize(
    ("file", "text"), [(settings_page.PAGE, settings_page.page), (settings_page.EXAMPLE, settings_page.example)]
)
def test_the_page_and_the_example_file_are_current(file: Path, text: Callable[[], str]) -> None:
    assert file.read_text() == text(), "run `make docs`"


def test_a_variable_of_two_processes_is_declared_once() -> None:
    for process in settings_page.PROCESSES.values():
        assert all(declared()[each.name] == each for each in variables(process))


def test_the_page_names_the_processes_that_read_a_setting() -> None:
    assert "| `CONSUMER_BATCH_SIZE` | consumer | `100` | a whole number from 1 to 10000 |" in settings_page.page()
    assert "| `KAFKA_GROUP_ID` | consumer, export |" in settings_page.page()


def test_settings_without_the_environment_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_TOPIC", "other")
    assert KafkaSettings().topic == "pulse.events.v1"
    assert KafkaSettings() == replace(load_api_settings().kafka, topic="pulse.events.v1")


# ── The line `settings` in the log ──

# Each secret begins with a text that the line has nowhere else. No ',', ';' or '=', which end a write key.
KEYS = st.text("abcXYZ019-_.:/?@%!$&|'", min_size=4, max_size=24).map("s3cr+".__add__)
PASSWORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=1).map("s3cr+".__add__)


@given(
    key=KEYS,
    password=PASSWORDS,
    options=st.sampled_from(["", "/", "/admin?w=1", "/admin?authMechanism=MONGODB-AWS&authMechanismProperties={}"]),
    scheme=st.sampled_from(["mongodb", "mongodb+srv"]),
    log_format=st.sampled_from(["json", "text"]),
)
def test_no_secret_reaches_the_log(key: str, password: str, options: str, scheme: str, log_format: str) -> None:
    login = f"{quote('s3cr+' + key, safe='')}:{quote(password, safe='')}"
    environment = {
        "MONGO_URI": f"{scheme}://{login}@a.mongo.example{options.format('AWS_SESSION_TOKEN:s3cr')}",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_USERNAME": "pulse",
        "KAFKA_SASL_PASSWORD": password,
        "API_KEYS": f"web={key};origins=https://shop.example;rate=5/s,{key}",
        "CONSOLE_KEY": key,
        "CONSOLE_DEMO_KEY": key,
        "EXPORT_URL": f"s3://a{login}@bucket/prefix",
        "LOG_FORMAT": log_format,
    }
    loaders = (load_api_settings, load_consumer_settings, load_console_settings, load_export_settings)
    with patch.dict(os.environ, environment):
        lines = [line_of(load()) for load in loaders]
    assert not any("s3cr" in line for line in lines)
    assert [f"{scheme}://***@a.mongo.example" in line for line in lines] == [False, True, True, True]


def test_every_setting_named_as_a_secret_is_secret() -> None:
    named = {name for name in declared() if re.search("KEY|PASSWORD|URI$", name)} - {"API_KEYS_FILE"}
    assert named == {name for name, each in declared().items() if each.secret}


def test_the_log_has_all_settings_as_json_and_only_changed_ones_as_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONSUMER_FLUSH_INTERVAL", "500ms")
    logged = json.loads(line_of(load_consumer_settings()))
    assert {each.name for each in variables(ConsumerSettings)} <= logged.keys()
    assert (logged["message"], logged["CONSUMER_FLUSH_INTERVAL"], logged["CONSUMER_BATCH_SIZE"]) == (
        "settings",
        "500ms",
        "100",
    )
    monkeypatch.setenv("LOG_FORMAT", "text")
    assert line_of(load_consumer_settings()) == (
        "INFO    process: settings LOG_FORMAT=text CONSUMER_FLUSH_INTERVAL=500ms"
    )


def line_of(loaded: ApiSettings | ConsumerSettings | ConsoleSettings | ExportSettings) -> str:
    """The line `settings` in the log of a process."""
    config = logging_config(loaded.log)
    handler, formatter = logging.StreamHandler(io.StringIO()), config["formatters"][loaded.log.format]
    configured = logging.config.DictConfigurator(config)
    handler.setFormatter(configured.configure_formatter(formatter))
    logger = logging.getLogger("process")
    logger.handlers, logger.propagate, logger.level = [handler], False, logging.INFO
    try:
        log_settings("process", loaded)
    finally:
        logger.handlers, logger.propagate, logger.level = [], True, logging.NOTSET
    written: str = handler.stream.getvalue()
    return written.strip()
