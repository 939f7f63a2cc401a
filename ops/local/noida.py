"""noida-db, the stand-in for Apache Kafka: its limits and its command line."""

from importlib.resources import files
from pathlib import Path

# One line: `make run` prints it.
LIMITS = (
    "noida-db stands in for Apache Kafka, for a first look only: kill -9 of it loses events of the last seconds, "
    "a consumer that dies keeps the next one from getting events, and an idle consumer uses a whole core."
)


def command(data_dir: Path, port: int) -> list[str]:
    """The command that runs it in the foreground, its data in `data_dir`.

    The binary itself, since the script around it leaves the binary running when it is terminated.
    """
    binary = Path(str(files("noida_db"))) / "noida-db"
    return [str(binary), "start", "--only", "kafka", "--kafka-port", str(port), "--data-dir", str(data_dir)]
