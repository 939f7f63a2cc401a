"""Every environment variable, parsed and validated once: one frozen object per process, created at its start.

A command begins with `read_dotenv`. Each `load_…` then reads the environment and raises `SettingsError` for the first
value that is not allowed. An empty variable counts as not set, except for API_JOURNAL_DIR and KAFKA_REFUSED_TOPIC. The
module reads nothing at import.
"""

import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from dotenv import load_dotenv
from dotenv.parser import parse_stream
from environs import Env, EnvError
from marshmallow import validate

from common.addresses import Address, is_host, parse_address
from common.errors import EnvFileError, SettingsError

T = TypeVar("T")
LogFormat = Literal["json", "text"]
JournalSync = Literal["normal", "full"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
LocalBroker = Literal["auto", "kafka", "noida"]


@dataclass(frozen=True, slots=True)
class LogSettings:
    level: str
    format: LogFormat


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """The address of Kafka, and the topics. The API compresses batches with `compression`.

    Without `refused_topic`, refused events are not kept.
    """

    brokers: tuple[Address, ...]
    topic: str
    dlq_topic: str
    security_protocol: str
    sasl_mechanism: str | None
    sasl_username: str | None
    sasl_password: str | None = field(repr=False)
    ssl_cafile: str | None
    compression: Compression
    refused_topic: str | None = None

    @property
    def broker_list(self) -> str:
        """The brokers as KAFKA_BROKERS has them."""
        return ",".join(map(str, self.brokers))


@dataclass(frozen=True, slots=True)
class MongoSettings:
    uri: str = field(repr=False)
    database: str
    collection: str
    ttl_days: int | None


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """The journal of accepted events, with a folder per worker in `folder`. `max_bytes` is the limit per worker."""

    folder: Path
    max_bytes: int
    sync: JournalSync


@dataclass(frozen=True, slots=True)
class WriteKey:
    """A secret that allows its bearer to send events, and its name for logs and metrics.

    With `origins`, only pages of these origins may use it. `rate` limits its events per second, in each worker.
    """

    name: str
    secret: str = field(repr=False)
    origins: frozenset[str] = frozenset()
    rate: int | None = None


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Who may send events: the bearers of `keys` and of those in `keys_file`; every client if both are missing.

    Pages of `origins` may read the answers; `*` means any page. On the routes of SDKs, pages of `sdk_origins` may.
    """

    keys: tuple[WriteKey, ...] = ()
    keys_file: Path | None = None
    origins: frozenset[str] = frozenset()
    sdk_origins: frozenset[str] = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Settings of an API process. `queue_capacity` limits the unacknowledged events in memory, per worker;
    `queue_max_bytes` limits their size.

    Without `journal`, events are only in memory. `refused_bodies`: whether the bodies of refused events are kept.
    """

    log: LogSettings
    kafka: KafkaSettings
    address: Address
    workers: int
    threads: int
    queue_capacity: int
    queue_max_bytes: int
    journal: JournalSettings | None
    access: AccessSettings = AccessSettings()
    refused_bodies: bool = True


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """Settings of a consumer process. `flush_interval` is in seconds; `dlq_max_ratio`, of recent records, from 0 to
    1.
    """

    log: LogSettings
    kafka: KafkaSettings
    mongo: MongoSettings
    group_id: str
    metrics_address: Address
    batch_size: int
    flush_interval: float
    max_retries: int
    dlq_max_ratio: float


@dataclass(frozen=True, slots=True)
class TopicSettings:
    log: LogSettings
    kafka: KafkaSettings
    partitions: int
    replication_factor: int


@dataclass(frozen=True, slots=True)
class DeadLetterSettings:
    """Settings of the dead letter tool."""

    log: LogSettings
    kafka: KafkaSettings


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Settings of the exporter. `url`: the folder or bucket for the files. `bigquery_table`: project.dataset.table, or
    None for files only. A file covers at most `max_rows` records of Kafka; events younger than `min_age` seconds wait.
    """

    log: LogSettings
    kafka: KafkaSettings
    group_id: str
    mongo: MongoSettings
    url: str
    bigquery_table: str | None
    metrics_address: Address
    max_rows: int
    min_age: float


@dataclass(frozen=True, slots=True)
class ForgetSettings:
    """Settings of the tool that forgets customers."""

    log: LogSettings
    kafka: KafkaSettings
    mongo: MongoSettings


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """Settings of the console. `key`: the viewers' password. `api_urls` and `consumer_urls`: the processes whose
    /metrics it reads.

    `hosts`: the console's names, besides those of this machine. `public_api_url`: the API's address for browsers;
    `demo_key`: the demo shop's write key.
    """

    log: LogSettings
    kafka: KafkaSettings
    mongo: MongoSettings
    address: Address
    key: str | None = field(repr=False)
    hosts: frozenset[str]
    show_bodies: bool
    api_urls: tuple[str, ...]
    consumer_urls: tuple[str, ...]
    public_api_url: str
    demo_key: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Settings of `make run` and its tools: the servers to start, and the addresses of all parts."""

    broker: LocalBroker
    data_dir: Path
    kafka: KafkaSettings
    mongo: MongoSettings
    api_address: Address
    metrics_address: Address
    console_address: Address


def read_dotenv(file: Path = Path(__file__).parent.parent / ".env") -> None:
    """Add the settings in the repository's `.env` to the environment, which wins. Call it at the start of a command.

    Does nothing without the file. Raises EnvFileError, which never shows the file's contents.
    """
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise EnvFileError(f"a file that can be read ({reason})") from None
    for line in parse_stream(io.StringIO(text)):
        if line.error or (line.key is not None and line.value is None):
            # The parser includes the preceding blank lines.
            number = line.original.line + line.original.string[: -len(line.original.string.lstrip())].count("\n")
            raise EnvFileError(f"NAME=value, or a comment, in line {number}")
    load_dotenv(stream=io.StringIO(text))


def load_api_settings() -> ApiSettings:
    """Settings of the API."""
    return ApiSettings(
        log=_log_settings(),
        kafka=_kafka_settings(),
        address=_api_address(),
        workers=_whole_number("API_WORKERS", os.cpu_count() or 1, 1, 256),
        threads=_whole_number("API_THREADS", 4, 1, 256),
        queue_capacity=_whole_number("API_QUEUE_CAPACITY", 10_000, 100, 10_000_000),
        # A request must fit: a batch has up to 1 MiB.
        queue_max_bytes=_size("API_QUEUE_MAX_BYTES", 64 * 1024**2, least_mib=8),
        journal=_journal_settings(),
        access=_access_settings(),
        refused_bodies=_yes_or_no("API_REFUSED_BODIES", default=True),
    )


def load_consumer_settings() -> ConsumerSettings:
    """Settings of the consumer."""
    return ConsumerSettings(
        log=_log_settings(),
        kafka=_kafka_settings(),
        mongo=_mongo_settings(),
        group_id=_group_id(),
        metrics_address=_metrics_address(),
        batch_size=_whole_number("CONSUMER_BATCH_SIZE", 100, 1, 10_000),
        flush_interval=_duration("CONSUMER_FLUSH_INTERVAL", 1.0),
        max_retries=_whole_number("CONSUMER_MAX_RETRIES", 3, 0, 100),
        dlq_max_ratio=_ratio("CONSUMER_DLQ_MAX_RATIO", 0.5),
    )


def load_topic_settings() -> TopicSettings:
    """Settings of the topics command."""
    return TopicSettings(
        log=_log_settings(),
        kafka=_kafka_settings(),
        partitions=_whole_number("KAFKA_PARTITIONS", 3, 1, 10_000),
        replication_factor=_whole_number("KAFKA_REPLICATION_FACTOR", 1, 1, 100),
    )


def load_dead_letter_settings() -> DeadLetterSettings:
    """Settings of the dead letter tool."""
    return DeadLetterSettings(log=_log_settings(), kafka=_kafka_settings())


def load_export_settings() -> ExportSettings:
    """Settings of the exporter, and of the tools that compare and restore its files."""
    url = _text("EXPORT_URL", Path("var/export").absolute().as_uri(), *_EXPORT_URL).rstrip("/")
    table = _text("EXPORT_BIGQUERY_TABLE", "", *_TABLE) or None
    if table and not url.startswith("gs://"):
        raise SettingsError("EXPORT_URL", url, "gs://bucket/prefix, since BigQuery loads files only from Cloud Storage")
    return ExportSettings(
        log=_log_settings(),
        kafka=_kafka_settings(),
        group_id=_group_id(),
        mongo=_mongo_settings(),
        url=url,
        bigquery_table=table,
        metrics_address=_address("EXPORT_METRICS_ADDR", Address("", 8085)),
        max_rows=_whole_number("EXPORT_MAX_ROWS", 500_000, 1, 100_000_000),
        min_age=_duration("EXPORT_MIN_AGE", 60.0, least=0.0),
    )


def load_forget_settings() -> ForgetSettings:
    """Settings of the tool that forgets customers."""
    return ForgetSettings(log=_log_settings(), kafka=_kafka_settings(), mongo=_mongo_settings())


def load_api_address() -> Address:
    """Where the API of this machine listens."""
    return _api_address()


def load_local_settings() -> LocalSettings:
    """Settings of the local stack."""
    broker: Any = _choice("LOCAL_BROKER", "auto", ("auto", "kafka", "noida"))
    return LocalSettings(
        broker=broker,
        data_dir=Path(_text("LOCAL_DATA_DIR", "var")),
        kafka=_kafka_settings(),
        mongo=_mongo_settings(),
        api_address=_api_address(),
        metrics_address=_metrics_address(),
        console_address=_console_address(),
    )


def load_console_settings() -> ConsoleSettings:
    """Settings of the console."""
    address = _console_address()
    key = _text("CONSOLE_KEY", "", r"[!-~]{8,256}", "at least 8 characters of ASCII, without spaces") or None
    if key is None and not address.is_loopback:
        allowed = "127.0.0.1, [::1] or localhost, or set CONSOLE_KEY: it shows events to every client that reaches it"
        raise SettingsError("CONSOLE_ADDR", str(address), allowed)
    api_urls = _urls("CONSOLE_API_URLS", ("http://localhost:8080",))
    return ConsoleSettings(
        log=_log_settings(),
        kafka=_kafka_settings(),
        mongo=_mongo_settings(),
        address=address,
        key=key,
        hosts=_hosts("CONSOLE_HOSTS"),
        show_bodies=_yes_or_no("CONSOLE_SHOW_BODIES", default=True),
        api_urls=api_urls,
        consumer_urls=_urls("CONSOLE_CONSUMER_URLS", ("http://localhost:8083",)),
        public_api_url=_urls("CONSOLE_PUBLIC_API_URL", api_urls)[0],
        demo_key=_text("CONSOLE_DEMO_KEY", "", r"[!-~]{1,256}", "a write key") or own_write_key(),
    )


def read_write_keys(file: Path) -> tuple[WriteKey, ...]:
    """The keys in API_KEYS_FILE, one per line, without blank lines and those that begin with #.

    Raises SettingsError, which never shows the file's contents.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SettingsError("API_KEYS_FILE", str(file), f"a file that can be read ({reason})") from None
    keys = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            key = _parse_write_key(line, number)
            if key is None:
                raise SettingsError(
                    "API_KEYS_FILE", str(file), f"a file with {_KEY_FORM}, one a line (line {number} is not)"
                )
            keys.append(key)
    return tuple(keys)


def own_write_key() -> str | None:
    """The secret for tools on the API's machine: the first of its keys that is not only for pages, if it requires
    one.
    """
    access = _access_settings()
    keys = access.keys or (read_write_keys(access.keys_file) if access.keys_file else ())
    return next((key.secret for key in keys if not key.origins), None)


def is_set(name: str) -> bool:
    """Whether the variable has a value, so that its default does not apply."""
    return bool(os.environ.get(name))


def _log_settings() -> LogSettings:
    format_: Any = _choice("LOG_FORMAT", "json", ("json", "text"))
    return LogSettings(level=_choice("LOG_LEVEL", "info", ("debug", "info", "warning", "error")), format=format_)


def _journal_settings() -> JournalSettings | None:
    # An empty value means off.
    if os.environ.get("API_JOURNAL_DIR", "var/journal") == "":
        return None
    sync: Any = _choice("API_JOURNAL_SYNC", "normal", ("normal", "full"))
    return JournalSettings(
        folder=Path(_text("API_JOURNAL_DIR", "var/journal")),
        max_bytes=_size("API_JOURNAL_MAX_BYTES", 1024**3),
        sync=sync,
    )


def _access_settings() -> AccessSettings:
    keys_file = Path(path) if (path := _text("API_KEYS_FILE", "")) else None
    if keys_file:
        # Only a check: `api.auth` reads it again.
        read_write_keys(keys_file)
    origins = _origins("API_CORS_ORIGINS")
    sdk_cors = _choice("API_SDK_CORS", "any", ("any", "listed"))
    return AccessSettings(
        _write_keys("API_KEYS"), keys_file, origins, origins if sdk_cors == "listed" else frozenset({"*"})
    )


def _kafka_settings() -> KafkaSettings:
    protocol = _choice("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT", ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"))
    with_sasl = protocol.startswith("SASL")
    topic = _text("KAFKA_TOPIC", "pulse.events.v1", *_TOPIC)
    dlq_topic = _dlq_topic(topic)
    compression: Any = _choice("KAFKA_COMPRESSION", "lz4", ("none", "gzip", "snappy", "lz4", "zstd"))
    mechanisms = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
    return KafkaSettings(
        brokers=_brokers("KAFKA_BROKERS", (Address("localhost", 9092),)),
        topic=topic,
        dlq_topic=dlq_topic,
        security_protocol=protocol,
        sasl_mechanism=_choice("KAFKA_SASL_MECHANISM", "PLAIN", mechanisms) if with_sasl else None,
        sasl_username=_required("KAFKA_SASL_USERNAME", protocol) if with_sasl else None,
        sasl_password=_required("KAFKA_SASL_PASSWORD", protocol) if with_sasl else None,
        ssl_cafile=_readable_file("KAFKA_SSL_CAFILE"),
        compression=compression,
        refused_topic=_refused_topic(topic, dlq_topic),
    )


def _group_id() -> str:
    return _text("KAFKA_GROUP_ID", "pulse-consumer-group")


def _dlq_topic(topic: str) -> str:
    dlq_topic = _text("KAFKA_DLQ_TOPIC", "pulse.events.dlq.v1", *_TOPIC)
    if dlq_topic == topic:
        # The consumer would read each dead letter as an event, and send it there again, forever.
        raise SettingsError("KAFKA_DLQ_TOPIC", dlq_topic, "another topic than KAFKA_TOPIC")
    return dlq_topic


def _refused_topic(*others: str) -> str | None:
    # An empty value means off.
    if os.environ.get("KAFKA_REFUSED_TOPIC") == "":
        return None
    refused_topic = _text("KAFKA_REFUSED_TOPIC", "pulse.refused.v1", *_TOPIC)
    if refused_topic in others:
        raise SettingsError("KAFKA_REFUSED_TOPIC", refused_topic, "another topic than KAFKA_TOPIC and KAFKA_DLQ_TOPIC")
    return refused_topic


def _mongo_settings() -> MongoSettings:
    return MongoSettings(
        uri=_mongo_uri("MONGO_URI", "mongodb://localhost:27017"),
        database=_text("MONGO_DATABASE", "pulse", r"[A-Za-z0-9_-]{1,63}", "letters, digits, '_' and '-' (at most 63)"),
        collection=_text("MONGO_COLLECTION", "events", *_COLLECTION),
        ttl_days=_whole_number("MONGO_TTL_DAYS", 0, 1, 24_855) or None,
    )


def _api_address() -> Address:
    return _address("API_ADDR", Address("", 8080))


def _metrics_address() -> Address:
    return _address("METRICS_ADDR", Address("", 8083))


def _console_address() -> Address:
    return _address("CONSOLE_ADDR", Address("127.0.0.1", 8084))


# ── Parsers: each takes the variable's name and its default, and its error names the allowed values ──

_NOT_SHOWN = "(not shown)"
_SECRET = ("API_KEYS", "CONSOLE_DEMO_KEY", "CONSOLE_KEY", "KAFKA_SASL_PASSWORD", "MONGO_URI")
# Python's own int, float and \d accept the digits of every script, and int reads 1_0 as 10.
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
_NUMBER = re.compile(r"[0-9]{0,18}\.?[0-9]{1,18}")
_DURATION = re.compile(r"(?P<number>[0-9]{1,18}(?:\.[0-9]{1,18})?)(?P<unit>ms|s|m)")
_SIZE = re.compile(r"(?P<number>[0-9]{1,18})(?: ?(?P<unit>KiB|MiB|GiB))?")
_BYTES = {None: 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
# No '=' in a secret without a name: `web=` is a name without its secret.
_WRITE_KEY = re.compile(
    r"(?:(?P<name>[A-Za-z0-9_.-]{1,64})=(?P<secret>[!-:<>-~][!-:<-~]{0,255})|(?P<bare>[!-:<>-~]{1,256}))"
    r"(?P<bounds>(?:;[a-z]+=[^;]*)*)"
)
_KEY_RATE = re.compile(r"(?P<events>[1-9][0-9]{0,8})/s")
_KEY_FORM = "name=secret, or name=secret;origins=https://shop.example;rate=500/s"
# No default port: browsers omit it, so an origin with it would never match.
_ORIGIN = re.compile(
    r"(?!http://.*:80$|https://.*:443$)"
    r"(?:[a-z][a-z0-9+.-]*://[a-z0-9._-]+|https?://\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
)
_BASE_URL = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
# Kafka does not allow these two names.
_TOPIC = (r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}", "letters, digits, '.', '_' and '-' (at most 249)")
_EXPORT_URL = (
    r"(?:file:///|gs://[a-z0-9]|s3://[a-z0-9])[^\s?#]*",
    "file:///folder, gs://bucket/prefix or s3://bucket/prefix",
)
_TABLE = (r"[a-z0-9:.-]+\.[A-Za-z0-9_]+\.[A-Za-z0-9_-]+", "project.dataset.table")
# MongoDB restricts dots.
_COLLECTION = (
    r"(?!system\.)(?=.{1,100}\Z)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*",
    "letters, digits, '_' and '-' (at most 100), with single dots between them, and no 'system.' before them",
)


def _read(name: str, default: T, parse: Callable[[Env], T], allowed: str) -> T:
    if not os.environ.get(name):
        return default
    try:
        return parse(Env())
    except EnvError:
        value = os.environ[name]
        # A value with an @ may contain a login, as URLs do.
        shown = _NOT_SHOWN if name in _SECRET or "@" in value else value
        raise SettingsError(name, shown, allowed) from None


def _whole_number(name: str, default: int, least: int, most: int) -> int:
    def parse(env: Env) -> int:
        text = env.str(name)
        if not (_WHOLE_NUMBER.fullmatch(text) and least <= int(text) <= most):
            raise EnvError(name)
        return int(text)

    return _read(name, default, parse, f"a whole number from {least} to {most}")


def _ratio(name: str, default: float) -> float:
    def parse(env: Env) -> float:
        text = env.str(name)
        if not (_NUMBER.fullmatch(text) and float(text) <= 1):
            raise EnvError(name)
        return float(text)

    return _read(name, default, parse, "a number from 0 to 1, such as 0.5")


def _choice(name: str, default: str, choices: tuple[str, ...]) -> str:
    one_of = validate.OneOf(choices)
    return _read(name, default, lambda env: env.str(name, validate=one_of), f"one of {', '.join(choices)}")


def _yes_or_no(name: str, *, default: bool) -> bool:
    return _choice(name, str(default).lower(), ("true", "false")) == "true"


def _text(name: str, default: str, pattern: str = r".+", allowed: str = "a text") -> str:
    matches = validate.Regexp(f"(?:{pattern})\\Z")
    return _read(name, default, lambda env: env.str(name, validate=matches), allowed)


def _required(name: str, protocol: str) -> str:
    value = _text(name, "")
    if not value:
        raise SettingsError(name, "", f"a value, since KAFKA_SECURITY_PROTOCOL is {protocol}")
    return value


def _mongo_uri(name: str, default: str) -> str:
    # The API does not use this setting, and has no pymongo.
    from common.mongo_uri import fault  # noqa: PLC0415

    uri = _text(name, default)
    if allowed := fault(uri):
        raise SettingsError(name, _NOT_SHOWN, allowed)
    return uri


def _readable_file(name: str) -> str | None:
    path = _text(name, "")
    if not path:
        return None
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise SettingsError(name, path, f"a file that can be read ({error.strerror})") from None
    return path


def _brokers(name: str, default: tuple[Address, ...]) -> tuple[Address, ...]:
    def parse(env: Env) -> tuple[Address, ...]:
        brokers = env.str(name).split(",")
        addresses = [address for broker in brokers if (address := parse_address(broker.strip())) and address.host]
        if len(addresses) < len(brokers):
            raise EnvError(name)
        return tuple(addresses)

    return _read(name, default, parse, "host:port, such as kafka:9092 or [::1]:9092, several separated by commas")


def _parse_write_key(text: str, number: int) -> WriteKey | None:
    """A `name=secret`, or only a secret, which is named after its number; None if it is neither.

    `;origins=`, with origins separated by `|`, and `;rate=`, with events per second, may follow in any order.
    """
    match = _WRITE_KEY.fullmatch(text.strip())
    if match is None:
        return None
    bounds = dict(each.split("=", 1) for each in match["bounds"].split(";")[1:])
    origins, rate = bounds.pop("origins", None), bounds.pop("rate", None)
    listed = frozenset(origins.lower().split("|")) if origins is not None else frozenset()
    events = _KEY_RATE.fullmatch(rate) if rate is not None else None
    if bounds or not all(map(_ORIGIN.fullmatch, listed)) or (rate is not None and events is None):
        return None
    return WriteKey(
        match["name"] or f"key{number}",
        match["secret"] or match["bare"],
        listed,
        int(events["events"]) if events else None,
    )


def _write_keys(name: str) -> tuple[WriteKey, ...]:
    def parse(env: Env) -> tuple[WriteKey, ...]:
        keys = [_parse_write_key(text, number) for number, text in enumerate(env.str(name).split(","), 1)]
        if None in keys:
            raise EnvError(name)
        return tuple(key for key in keys if key)

    return _read(name, (), parse, f"{_KEY_FORM}, several separated by commas, without spaces")


def _origins(name: str) -> frozenset[str]:
    def parse(env: Env) -> frozenset[str]:
        origins = [origin.strip().lower() for origin in env.str(name).split(",")]
        if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
            raise EnvError(name)
        return frozenset(origins)

    allowed = (
        "origins as browsers send them, such as https://shop.example (no path, no default port), "
        "several separated by commas, or *"
    )
    return _read(name, frozenset(), parse, allowed)


def _hosts(name: str) -> frozenset[str]:
    def parse(env: Env) -> frozenset[str]:
        hosts = [host.strip().lower() for host in env.str(name).split(",")]
        if not all(map(is_host, hosts)):
            raise EnvError(name)
        return frozenset(hosts)

    return _read(name, frozenset(), parse, "names of hosts without a port, separated by commas")


def _urls(name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    def parse(env: Env) -> tuple[str, ...]:
        urls = [url.strip().rstrip("/") for url in env.str(name).split(",")]
        if not all(map(_BASE_URL.fullmatch, urls)):
            raise EnvError(name)
        return tuple(urls)

    return _read(name, default, parse, "http:// or https:// URLs without a path, separated by commas")


def _address(name: str, default: Address) -> Address:
    def parse(env: Env) -> Address:
        address = parse_address(env.str(name))
        if address is None:
            raise EnvError(name)
        return address

    return _read(name, default, parse, ":port or host:port, such as :8080, 127.0.0.1:8080 or [::1]:8080")


def _duration(name: str, default: float, *, least: float = 0.001) -> float:
    def parse(env: Env) -> float:
        match = _DURATION.fullmatch(env.str(name))
        seconds = float(match["number"]) * _SECONDS[match["unit"]] if match else -1.0
        if not least <= seconds <= 3_600:
            raise EnvError(name)
        return seconds

    shortest = "1ms" if least else "0s"
    return _read(name, default, parse, f"a duration from {shortest} to 60m, such as 500ms, 1s or 2m")


def _size(name: str, default: int, *, least_mib: int = 1) -> int:
    def parse(env: Env) -> int:
        match = _SIZE.fullmatch(env.str(name))
        size = int(match["number"]) * _BYTES[match["unit"]] if match else 0
        if not least_mib * 1024**2 <= size <= 1024**4:
            raise EnvError(name)
        return size

    return _read(name, default, parse, f"a size from {least_mib} MiB to 1024 GiB, such as 512 MiB or 1073741824")
