"""The progress of the measurement: a line on stderr with the current step."""

import sys
from collections.abc import Iterator, Sequence

from tqdm import tqdm


def steps(part: str, rounds: int, names: Sequence[str]) -> Iterator[str]:
    """The names, once per round. Shows each one while the caller works on it."""
    with tqdm(total=rounds * len(names), unit=" steps", file=sys.stderr) as bar:
        for number in range(1, rounds + 1):
            for name in names:
                bar.set_description(f"{part}, round {number} of {rounds}: {name}")
                yield name
                bar.update()
