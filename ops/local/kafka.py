"""Apache Kafka on this machine: its jars from Maven Central, its folder, its command line."""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from string import Template

from common.errors import LocalStackError
from ops.local.ports import free_port

HERE = Path(__file__).parent
POM = HERE / "pom.xml"
CLUSTER_ID = "pulse-local-cluster-id"  # 22 characters, as Kafka wants them
FILES_OF_A_FIRST_FETCH = 340  # measured with an empty local repository of Maven's, its plugin included
FETCH_TIMEOUT = 600.0  # seconds
JVM = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dlog4j2.configurationFile={HERE / 'log4j2.yaml'}"]


def install_command() -> str:
    """Installs Java 17 or newer, and Maven.

    Debian and Ubuntu with Python 3.11 have a default Java that is new enough, but not all have a package for 17.
    """
    darwin = sys.platform == "darwin"
    return "brew install temurin@17 maven" if darwin else "sudo apt install default-jre-headless maven"


def check_java() -> None:
    """Raises LocalStackError unless Java 17 or newer is at hand. Blocks for at most 30 s, mostly 0.1 s."""
    try:
        answer = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        answer = ""
    version = re.search(r'version "(\d+)', answer)
    if version is None or int(version[1]) < 17:
        found = f"Java {version[1]}" if version else "none"
        raise LocalStackError(
            f"Apache Kafka needs Java 17 or newer in the PATH (found: {found}). To get it: {install_command()}"
        )


def jars(cache_dir: Path, progress: Callable[[str], None] = print) -> Path:
    """The folder of Kafka's jars under `cache_dir`; fetched by Maven if it is not there: 10 to 60 s, at most 600 s.

    `progress` is given a line now and then. Raises LocalStackError when the jars cannot be had. A fetch that ends
    half way leaves nothing that looks whole.
    """
    pom = POM.read_text()
    version = pom.partition("<version>")[2].partition("<")[0]
    libs = cache_dir / f"kafka-{version}-{hashlib.sha256(pom.encode()).hexdigest()[:8]}"
    if libs.is_dir():
        return libs
    if shutil.which("mvn") is None:
        raise LocalStackError(
            f"Apache Kafka is fetched by Maven, and there is no mvn in the PATH. To get it: {install_command()}"
        )
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix="partial-") as partial:
        progress(f"Fetching Apache Kafka {version} from Maven Central, once: up to 70 MB, mostly less than a minute.")
        _fetch(Path(partial, "libs"), progress)
        try:
            Path(partial, "libs").rename(libs)
        except OSError:
            if not libs.is_dir():  # else another process was quicker
                raise
    return libs


def _fetch(into: Path, progress: Callable[[str], None]) -> None:
    goal = "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies"
    command = ["mvn", "-B", "-f", str(POM), goal, f"-DoutputDirectory={into.resolve()}"]
    files, fault = 0, ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace") as maven:
        timer = threading.Timer(FETCH_TIMEOUT, maven.kill)
        timer.start()
        try:
            for line in maven.stdout or ():
                if "Downloaded from" in line:
                    files += 1
                    if files % 20 == 0:
                        progress(f"  {files} of at most about {FILES_OF_A_FIRST_FETCH} files")
                elif line.startswith("[ERROR]"):
                    fault = fault or line.partition(" -> [Help")[0].strip()
            status = maven.wait()
        finally:
            timer.cancel()
            maven.terminate()
            maven.wait()
    if status != 0:
        raise LocalStackError(
            f"Maven cannot fetch Apache Kafka: …{fault[-200:] or f' not within {FETCH_TIMEOUT:g} s'}."
        )


def prepare(data_dir: Path, port: int, libs: Path) -> list[str]:
    """Makes the broker's folder ready and returns the command that runs it there, in the foreground.

    Blocks for 1 to 2 s on the first call for a folder, at most 60 s. Raises LocalStackError when the folder cannot be
    used. The controller takes a new free port each time: no other process needs to know it.
    """
    data, config = data_dir / "data", data_dir / "server.properties"
    data_dir.mkdir(parents=True, exist_ok=True)
    template = Template((HERE / config.name).read_text())
    config.write_text(template.substitute(port=port, controller_port=free_port(), data=data))
    java = ["java", *JVM, "-cp", f"{libs}/*"]
    if not (data / "meta.properties").exists():  # what Kafka's formatting writes last
        tool = [*java, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(config)]
        try:
            subprocess.run(tool, capture_output=True, text=True, timeout=60, check=True)
        except subprocess.SubprocessError as error:
            raise LocalStackError(f"Kafka cannot use {data}: {getattr(error, 'stderr', None) or error}") from None
    return [*java, "-Xms128m", "-Xmx256m", "kafka.Kafka", str(config)]
