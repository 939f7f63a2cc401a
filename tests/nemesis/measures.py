"""The measures of a soak, per minute: memory, descriptors, threads, files and latencies. They should not grow."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import psutil

from tests.nemesis.scene import Scene

Sample = dict[str, float]
"""The values of one minute, by name."""


def measure(scene: Scene, seconds: Sequence[float]) -> Sample:
    """A sample of the current minute. `seconds`: the sorted latencies of its answers."""
    sample: Sample = {}
    for name, part in scene.parts.items():
        if name != "exporter" and part.process.child is not None:
            for what, value in _of_processes(part.process.child.pid).items():
                sample[f"{name} {what}"] = value
    mains = [api.child.pid for api in scene.apis if api.child is not None]
    sample["metrics files MiB"] = _mib(folder for pid in mains for folder in _metrics_folders(pid))
    sample["journals MiB"] = _mib(scene.journals)
    sample["Kafka's files MiB"] = _mib(node.data for node in scene.cluster.nodes)
    sample["logs MiB"] = _mib(scene.folder.glob("**/*.log"))
    if seconds:
        sample["answers p50 ms"] = seconds[len(seconds) // 2] * 1000
        sample["answers p99 ms"] = seconds[int(len(seconds) * 0.99)] * 1000
    return sample


def table(samples: Sequence[Sample]) -> Iterator[str]:
    """A line for each measure: the medians of the first and the last quarter, and their ratio."""
    quarter = max(1, len(samples) // 4)
    yield f"{'':28} {'first':>10} {'last':>10} {'ratio':>7}"
    for name in samples[-1]:
        first, last = (
            statistics.median(values)
            for part in (samples[:quarter], samples[-quarter:])
            if (values := [one[name] for one in part if name in one])
        )
        yield f"{name:28} {first:10.1f} {last:10.1f} {last / first if first else 0:7.2f}"


def _of_processes(pid: int) -> Sample:
    """The values of a process and its children together."""
    sample: Sample = {"RSS MiB": 0.0, "descriptors": 0, "threads": 0}
    try:
        main = psutil.Process(pid)
        for process in [main, *main.children(recursive=True)]:
            sample["RSS MiB"] += process.memory_info().rss / 2**20
            sample["descriptors"] += process.num_fds()
            sample["threads"] += process.num_threads()
    except psutil.NoSuchProcess:
        return {}
    return sample


def _metrics_folders(pid: int) -> list[Path]:
    """The folder of an API's metrics files, in which its main process holds a lock."""
    try:
        opened = [Path(file.path) for file in psutil.Process(pid).open_files()]
    except psutil.NoSuchProcess:
        return []
    return [path.parent for path in opened if path.parent.name.startswith("pulse-metrics-")]


def _mib(paths: Iterable[Path]) -> float:
    """The space on the disk that files and folders take, in MiB."""
    total = 0
    for path in paths:
        for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
            try:
                total += file.stat().st_blocks * 512
            except FileNotFoundError:
                continue
    return total / 2**20
