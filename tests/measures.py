"""The measures of a soak, per minute: memory, descriptors, threads, files and latencies. They should not grow."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

Sample = dict[str, float]
"""The values of one minute, by name."""


def measure(pids: Mapping[str, int], paths: Mapping[str, Iterable[Path]], seconds: Sequence[float]) -> Sample:
    """A sample of the current minute: of processes and their children, of files and folders, by name, and of the
    sorted latencies of answers.
    """
    sample: Sample = {}
    for name, pid in pids.items():
        sample |= {f"{name} {what}": value for what, value in _of_processes(pid).items()}
    sample |= {f"{name} MiB": _mib(of_name) for name, of_name in paths.items()}
    sample["answers p50 ms"], sample["answers p99 ms"] = (1000 * percentile(seconds, part) for part in (0.5, 0.99))
    return sample


def percentile(ordered: Sequence[float], part: float) -> float:
    """The value below which this part of the sorted values lies; 0 without values."""
    return ordered[int(len(ordered) * part)] if ordered else 0


def quarters(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """The medians of the first and of the last quarter, for each measure."""
    quarter = max(1, len(samples) // 4)
    first, last = samples[:quarter], samples[-quarter:]
    return {
        name: (statistics.median(one[name] for one in first), statistics.median(one[name] for one in last))
        for name in samples[-1]
    }


def grown(samples: Sequence[Sample]) -> list[str]:
    """The measures of resources that grew by more than a tenth and one unit."""
    return [
        name
        for name, (first, last) in quarters(samples).items()
        if not name.startswith("answers") and last > 1.1 * first + 1
    ]


def table(samples: Sequence[Sample]) -> Iterator[str]:
    """A line for each measure: the medians of the first and the last quarter, and their ratio."""
    yield f"{'':28} {'first':>10} {'last':>10} {'ratio':>7}"
    for name, (first, last) in quarters(samples).items():
        yield f"{name:28} {first:10.1f} {last:10.1f} {last / first if first else 0:7.2f}"


def metrics_folders(pid: int) -> list[Path]:
    """The folder of an API's metrics files, in which its main process holds a lock."""
    try:
        opened = [Path(file.path) for file in psutil.Process(pid).open_files()]
    except psutil.NoSuchProcess:
        return []
    return [path.parent for path in opened if path.parent.name.startswith("pulse-metrics-")]


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
