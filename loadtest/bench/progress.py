"""How far the measuring is, and what is measured now: a line on stderr."""

import sys
from collections.abc import Iterator, Sequence

from tqdm import tqdm


def steps(part: str, rounds: int, names: Sequence[str]) -> Iterator[str]:
    """The names, as often as there are rounds. Each is shown while the caller works on it."""
    with tqdm(total=rounds * len(names), unit=" steps", file=sys.stderr) as bar:
        for number in range(1, rounds + 1):
            for name in names:
                bar.set_description(f"{part}, round {number} of {rounds}: {name}")
                yield name
                bar.update()
