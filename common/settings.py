"""All settings: each environment variable is declared once, as a field of the frozen object of its process.

A command begins with `read_dotenv`. Each `load_…` then reads the environment and raises `SettingsError` for the first
value that is not allowed. `make docs` writes docs/settings.md and .env.example from the declarations.
"""

import io
import os
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from dotenv import load_dotenv
from dotenv.parser import parse_stream

from common.addresses import Address, is_host, parse_address
from common.environment import (
    Form,
    Variable,
    address,
    as_set,
    choice,
    duration,
    folder,
    hidden,
    load,
    matching,
    optional,
    ratio,
    readable_file,
    several,
    size,
    variable,
    whole_number,
    without_login,
    yes_or_no,
)
from common.errors import EnvFileError, SettingsError
from common.write_keys import ORIGIN, WriteKey, keys_file, read_write_keys, write_keys

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "text"]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
JournalSync = Literal["normal", "full"]
SdkCors = Literal["any", "listed"]
LocalBroker = Literal["auto", "kafka", "noida"]

# Kafka does not allow these two names.
_TOPIC = matching(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}", "letters, digits, '.', '_' and '-' (at most 249)")
_DATABASE = matching(r"[A-Za-z0-9_-]{1,63}", "letters, digits, '_' and '-' (at most 63)")
# MongoDB restricts dots.
_COLLECTION = matching(
    r"(?!system\.)(?=.{1,100}\Z)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*",
    "letters, digits, '_' and '-' (at most 100), with single dots between them, and no 'system.' before them",
)
_EXPORT_URL = matching(
    r"(?:file:///|gs://[a-z0-9]|s3://[a-z0-9])[^\s?#]*", "file:///folder, gs://bucket/prefix or s3://bucket/prefix"
)
_TABLE = matching(r"[a-z0-9:.-]+\.[A-Za-z0-9_]+\.[A-Za-z0-9_-]+", "project.dataset.table")
_BASE_URL = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_BROKERS = several(
    lambda text: broker if (broker := parse_address(text)) and broker.host else None,
    "host:port, such as kafka:9092 or [::1]:9092, several separated by commas",
)
_ORIGINS = as_set(
    several(
        lambda text: text.lower() if text == "*" or ORIGIN.fullmatch(text.lower()) else None,
        "origins as browsers send them, such as https://shop.example (no path, no default port), "
        "several separated by commas, or *",
    )
)
_HOSTS = as_set(
    several(
        lambda text: text.lower() if is_host(text.lower()) else None,
        "names of hosts without a port, separated by commas",
    )
)


def _base_url(text: str) -> str:
    url = text.rstrip("/")
    if not _BASE_URL.fullmatch(url):
        raise ValueError
    return url


_URL = Form(_base_url, "an http:// or https:// URL without a path")
_URLS = several(_base_url, "http:// or https:// URLs without a path, separated by commas")


def _mongo_uri(text: str) -> str:
    # The API does not use this setting, and has no pymongo.
    from common.mongo_uri import fault  # noqa: PLC0415

    if allowed := fault(text):
        raise ValueError(allowed)
    return text


def _only_hosts(uri: str) -> str:
    """A valid MONGO_URI without its login, database and options."""
    scheme, rest = uri.split("://", 1)
    login, _, hosts = re.split("[/?]", rest, maxsplit=1)[0].rpartition("@")
    return f"{scheme}://{'***@' if login else ''}{hosts}"


# ── Variables of several processes ──

_API_ADDR = Variable(
    "API_ADDR",
    address(),
    ":8080",
    "Where the API listens. `:port` is every interface, IPv4 and IPv6; an IPv6 address is in brackets.",
)

_METRICS_ADDR = Variable("METRICS_ADDR", address(), ":8083", "Where the consumer serves `/health` and `/metrics`.")

_CONSOLE_ADDR = Variable(
    "CONSOLE_ADDR",
    address(),
    "127.0.0.1:8084",
    "Where the console listens. An address that other machines can reach needs `CONSOLE_KEY`.",
)

_GROUP_ID = Variable("KAFKA_GROUP_ID", matching(), "pulse-consumer-group", "The consumers' group in Kafka.")


# ── Settings of a subject ──


@dataclass(frozen=True, slots=True)
class LogSettings:
    level: LogLevel = variable("LOG_LEVEL", choice(LogLevel), "info", "The least severe lines that are logged.")
    format: LogFormat = variable(
        "LOG_FORMAT", choice(LogFormat), "json", "A JSON object per line, or text to read. `make run` logs text."
    )


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """The address of Kafka, and the topics. Without `refused_topic`, refused events are not kept."""

    brokers: tuple[Address, ...] = variable(
        "KAFKA_BROKERS", _BROKERS, "localhost:9092", "Brokers to connect to first; they name the others."
    )
    topic: str = variable("KAFKA_TOPIC", _TOPIC, "pulse.events.v1", "The topic of accepted events.")
    dlq_topic: str = variable("KAFKA_DLQ_TOPIC", _TOPIC, "pulse.events.dlq.v1", "The topic of dead letters.")
    security_protocol: SecurityProtocol = variable(
        "KAFKA_SECURITY_PROTOCOL", choice(SecurityProtocol), "PLAINTEXT", "Whether to use TLS, and whether to log in."
    )
    sasl_mechanism: SaslMechanism | None = variable(
        "KAFKA_SASL_MECHANISM", choice(SaslMechanism), "PLAIN", "How to log in, if the protocol is one of SASL."
    )
    sasl_username: str | None = variable("KAFKA_SASL_USERNAME", optional(matching()), "", "The user to log in as.")
    sasl_password: str | None = variable(
        "KAFKA_SASL_PASSWORD", optional(matching()), "", "The user's password.", secret=hidden
    )
    ssl_cafile: str | None = variable(
        "KAFKA_SSL_CAFILE",
        optional(readable_file()),
        "",
        "The certificates, in PEM format, of the authorities that signed the brokers'. Empty: the system's.",
    )
    compression: Compression = variable(
        "KAFKA_COMPRESSION", choice(Compression), "lz4", "How sent batches are compressed. Every codec can be read."
    )
    refused_topic: str | None = variable(
        "KAFKA_REFUSED_TOPIC",
        optional(_TOPIC),
        "pulse.refused.v1",
        "The topic where the API keeps refused events for a day. Set, but empty: they are not kept.",
        empty_is_value=True,
    )

    def __post_init__(self) -> None:
        if self.dlq_topic == self.topic:
            # The consumer would read each dead letter as an event, and send it there again, forever.
            raise SettingsError("KAFKA_DLQ_TOPIC", self.dlq_topic, "another topic than KAFKA_TOPIC")
        if self.refused_topic in (self.topic, self.dlq_topic):
            allowed = "another topic than KAFKA_TOPIC and KAFKA_DLQ_TOPIC"
            raise SettingsError("KAFKA_REFUSED_TOPIC", self.refused_topic, allowed)
        login = {"KAFKA_SASL_USERNAME": self.sasl_username, "KAFKA_SASL_PASSWORD": self.sasl_password}
        for name, value in login.items():
            if self.with_sasl and not value:
                raise SettingsError(name, "", f"a value, since KAFKA_SECURITY_PROTOCOL is {self.security_protocol}")

    @property
    def with_sasl(self) -> bool:
        """Whether to log in."""
        return self.security_protocol.startswith("SASL")

    @property
    def broker_list(self) -> str:
        """The brokers as KAFKA_BROKERS has them."""
        return ",".join(map(str, self.brokers))


@dataclass(frozen=True, slots=True)
class MongoSettings:
    uri: str = variable(
        "MONGO_URI",
        Form(_mongo_uri, "a URI such as mongodb://host:27017 or mongodb://user:password@host:27017/?w=majority"),
        "mongodb://localhost:27017",
        "The address of MongoDB. In user name and password, `@ : / ? %` are percent-encoded: `%40 %3A %2F %3F %25`.",
        secret=_only_hosts,
    )
    database: str = variable("MONGO_DATABASE", _DATABASE, "pulse", "The database of events.")
    collection: str = variable("MONGO_COLLECTION", _COLLECTION, "events", "The collection of events.")
    ttl_days: int | None = variable(
        "MONGO_TTL_DAYS",
        optional(whole_number(1, 24_855)),
        "",
        "Days after which MongoDB deletes an event, counted from its receipt. Empty: never.",
    )


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """The journal of accepted events, with a folder per worker in `folder`. `max_bytes` is the limit per worker."""

    folder: Path = variable(
        "API_JOURNAL_DIR",
        folder(),
        "var/journal",
        "Where accepted events are kept until Kafka has them. Set, but empty: in memory only; kill -9 loses them.",
        empty_is_value=True,
    )
    max_bytes: int = variable(
        "API_JOURNAL_MAX_BYTES",
        size(),
        "1GiB",
        "Size of a worker's journal. Beyond it, requests are answered 503.",
    )
    sync: JournalSync = variable(
        "API_JOURNAL_SYNC",
        choice(JournalSync),
        "normal",
        "normal: events survive the death of the process; a power cut may lose the last half minute. full: they also "
        "survive a power cut, for about 0.5 ms a request.",
    )


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Who may send events: the bearers of `keys` and of those in `keys_file`; every client if both are missing.

    Pages of `origins` may read the answers; `*` means any page. On the routes of SDKs, pages of `sdk_origins` may.
    """

    keys: tuple[WriteKey, ...] = variable(
        "API_KEYS",
        write_keys(),
        "",
        "Write keys, such as `web=SECRET,app=ANOTHER`. A secret without a name is named key1, key2, by its position. "
        "`origins` (separated by `|`) limits "
        "a key to pages of these, `rate` to events per second in each worker. Tools on this machine send with the "
        "first key. Empty, as `API_KEYS_FILE`: every client may send.",
        secret=hidden,
    )
    keys_file: Path | None = variable(
        "API_KEYS_FILE",
        optional(keys_file()),
        "",
        "A file with more keys. The API reads it again, without a restart, when it changes.",
    )
    origins: frozenset[str] = variable(
        "API_CORS_ORIGINS", _ORIGINS, "", "Origins whose pages may read the answers. Empty: none."
    )
    sdk_cors: SdkCors = variable(
        "API_SDK_CORS",
        choice(SdkCors),
        "any",
        "Pages that may read the answers on the routes of SDKs: any, or those of `API_CORS_ORIGINS`.",
    )

    @property
    def sdk_origins(self) -> frozenset[str]:
        return self.origins if self.sdk_cors == "listed" else frozenset({"*"})


# ── Settings of a process ──


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Settings of an API process. `queue_capacity` limits the unacknowledged events in memory, per worker;
    `queue_max_bytes` limits their size. Without `journal`, events are only in memory.
    """

    log: LogSettings
    kafka: KafkaSettings
    address: Address = _API_ADDR.field()
    workers: int = variable(
        "API_WORKERS",
        whole_number(1, 256),
        "the number of cores",
        "Processes that accept events.",
        computed=lambda: str(os.cpu_count() or 1),
    )
    threads: int = variable(
        "API_THREADS",
        whole_number(1, 256),
        "4",
        "Threads of a worker for slow answers: `/health`, `/metrics`, `/docs`, large batches of SDKs.",
    )
    queue_capacity: int = variable(
        "API_QUEUE_CAPACITY",
        whole_number(100, 10_000_000),
        "10000",
        "Events of a worker in memory that Kafka has not acknowledged. Beyond it, events are in the journal only.",
    )
    # A request must fit: a batch has up to 1 MiB.
    queue_max_bytes: int = variable(
        "API_QUEUE_MAX_BYTES", size(8), "64MiB", "Size of these events. Beyond it, events are in the journal only."
    )
    journal: JournalSettings | None = None
    access: AccessSettings = field(default_factory=AccessSettings)
    refused_bodies: bool = variable(
        "API_REFUSED_BODIES", yes_or_no(), "true", "Whether the first 4 KiB of refused bodies are kept with the reason."
    )


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """Settings of a consumer process. `flush_interval` is in seconds; `dlq_max_ratio`, of recent records, from 0 to
    1.
    """

    log: LogSettings
    kafka: KafkaSettings
    mongo: MongoSettings
    group_id: str = _GROUP_ID.field()
    metrics_address: Address = _METRICS_ADDR.field()
    batch_size: int = variable(
        "CONSUMER_BATCH_SIZE",
        whole_number(1, 10_000),
        "100",
        "Records after which a flush is due. A flush writes all records of the poll.",
    )
    flush_interval: float = variable("CONSUMER_FLUSH_INTERVAL", duration(), "1s", "Time after which a flush is due.")
    max_retries: int = variable(
        "CONSUMER_MAX_RETRIES",
        whole_number(0, 100),
        "3",
        "Retries of a document that MongoDB refuses, before it becomes a dead letter.",
    )
    dlq_max_ratio: float = variable(
        "CONSUMER_DLQ_MAX_RATIO",
        ratio(),
        "0.5",
        "Share of dead letters among the recent records at which the consumer stops. 1: never; start once with 1 to "
        "get past such records.",
    )


@dataclass(frozen=True, slots=True)
class TopicSettings:
    log: LogSettings
    kafka: KafkaSettings
    partitions: int = variable("KAFKA_PARTITIONS", whole_number(1, 10_000), "3", "Partitions of the events topic.")
    replication_factor: int = variable(
        "KAFKA_REPLICATION_FACTOR", whole_number(1, 100), "1", "Copies of each partition, of all topics."
    )


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
    mongo: MongoSettings
    group_id: str = _GROUP_ID.field()
    url: str = variable(
        "EXPORT_URL",
        Form(lambda text: _EXPORT_URL.parse(text).rstrip("/"), _EXPORT_URL.allowed),
        "var/export in the current folder",
        "Where the files go. Buckets need the machine's own credentials.",
        computed=lambda: Path("var/export").absolute().as_uri(),
    )
    bigquery_table: str | None = variable(
        "EXPORT_BIGQUERY_TABLE",
        optional(_TABLE),
        "",
        "The BigQuery table that the files are loaded into, from a `gs://` URL. Empty: files only.",
    )
    metrics_address: Address = variable(
        "EXPORT_METRICS_ADDR", address(), ":8085", "Where `python -m ops.export serve` serves `/metrics`."
    )
    max_rows: int = variable(
        "EXPORT_MAX_ROWS", whole_number(1, 100_000_000), "500000", "Records of Kafka that a file covers."
    )
    min_age: float = variable("EXPORT_MIN_AGE", duration(0.0), "1m", "Age from which an event is exported.")

    def __post_init__(self) -> None:
        if self.bigquery_table and not self.url.startswith("gs://"):
            allowed = "gs://bucket/prefix, since BigQuery loads files only from Cloud Storage"
            raise SettingsError("EXPORT_URL", without_login(self.url), allowed)


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
    address: Address = _CONSOLE_ADDR.field()
    key: str | None = variable(
        "CONSOLE_KEY",
        optional(matching(r"[!-~]{8,256}", "at least 8 characters of ASCII, without spaces")),
        "",
        "The password of viewers; the browser asks for it, with any user name.",
        secret=hidden,
    )
    hosts: frozenset[str] = variable(
        "CONSOLE_HOSTS", _HOSTS, "", "The console's host names, besides localhost and IP addresses."
    )
    show_bodies: bool = variable(
        "CONSOLE_SHOW_BODIES", yes_or_no(), "true", "Whether the contents of events and of refused bodies are shown."
    )
    api_urls: tuple[str, ...] = variable(
        "CONSOLE_API_URLS",
        _URLS,
        "http://localhost:8080",
        "APIs whose `/metrics` the console reads. A name with several addresses stands for all of them.",
    )
    consumer_urls: tuple[str, ...] = variable(
        "CONSOLE_CONSUMER_URLS", _URLS, "http://localhost:8083", "Consumers whose `/metrics` the console reads."
    )
    public_api_url: str = variable(
        "CONSOLE_PUBLIC_API_URL",
        _URL,
        "the first of CONSOLE_API_URLS",
        "The API's address for browsers and people: in the demo shop, and in requests to copy.",
        computed=lambda: (os.environ.get("CONSOLE_API_URLS") or "http://localhost:8080").split(",")[0],
    )
    demo_key: str | None = variable(
        "CONSOLE_DEMO_KEY",
        optional(matching(r"[!-~]{1,256}", "a write key")),
        "the first of API_KEYS",
        "The write key of the demo shop.",
        computed=lambda: own_write_key() or "",
        secret=hidden,
    )

    def __post_init__(self) -> None:
        if self.key is None and not self.address.is_loopback:
            allowed = (
                "127.0.0.1, [::1] or localhost, or set CONSOLE_KEY: it shows events to every client that reaches it"
            )
            raise SettingsError("CONSOLE_ADDR", str(self.address), allowed)


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Settings of `make run` and its tools: the servers to start, and the addresses of all parts."""

    kafka: KafkaSettings
    mongo: MongoSettings
    broker: LocalBroker = variable(
        "LOCAL_BROKER",
        choice(LocalBroker),
        "auto",
        "The broker of `make run`: Apache Kafka, noida-db, or Kafka if Java and Maven are installed.",
    )
    data_dir: Path = variable("LOCAL_DATA_DIR", folder(), "var", "Where the local servers keep their data.")
    api_address: Address = _API_ADDR.field()
    metrics_address: Address = _METRICS_ADDR.field()
    console_address: Address = _CONSOLE_ADDR.field()


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


load_api_settings = partial(load, ApiSettings)
load_consumer_settings = partial(load, ConsumerSettings)
load_topic_settings = partial(load, TopicSettings)
load_dead_letter_settings = partial(load, DeadLetterSettings)
load_export_settings = partial(load, ExportSettings)
load_forget_settings = partial(load, ForgetSettings)
load_console_settings = partial(load, ConsoleSettings)
load_local_settings = partial(load, LocalSettings)
load_api_address = _API_ADDR.read


def own_write_key() -> str | None:
    """The secret for tools on the API's machine: the first of its keys that is not only for pages, if it requires
    one.
    """
    access = load(AccessSettings)
    keys = access.keys or (read_write_keys(access.keys_file) if access.keys_file else ())
    return next((key.secret for key in keys if not key.origins), None)


def is_set(name: str) -> bool:
    """Whether the variable has a value, so that its default does not apply."""
    return bool(os.environ.get(name))
