"""noida-db, the stand-in for Apache Kafka: its limits and its command line."""

from importlib.resources import files
from pathlib import Path

LIMITS = """\
noida-db is for a first look only:
  - it keeps events in memory and saves them every few seconds: kill -9 of it loses events it has acknowledged
  - it never gives up a consumer that died without leaving its group: another one then gets no events
  - it answers an idle consumer at once, which therefore uses a whole core
  - its start may say "weak version 'GLIBC_…' not found", which is harmless"""


def command(data_dir: Path, port: int) -> list[str]:
    """The command that runs it in the foreground, its data in `data_dir`.

    The binary itself, since the script around it leaves the binary running when it is terminated.
    """
    binary = Path(str(files("noida_db"))) / "noida-db"
    return [str(binary), "start", "--only", "kafka", "--kafka-port", str(port), "--data-dir", str(data_dir)]
