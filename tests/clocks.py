"""Clocks that can be stepped, one for each part."""

import struct
from pathlib import Path

from tests.compiler import preloaded


class Clocks:
    """The real-time clocks of processes; their monotonic ones are those of the machine."""

    def __init__(self, folder: Path) -> None:
        """Compile their library, as `preloaded` does."""
        self._folder = folder
        self._library = preloaded(Path(__file__).with_name("clock.c"), folder)

    def environment(self, part: str) -> dict[str, str]:
        """What the part's process needs. Its clock is right at first."""
        self.step(part, 0)
        return {"LD_PRELOAD": str(self._library), "CLOCK_OFFSET": str(self._file(part))}

    def step(self, part: str, seconds: int) -> None:
        """Have the part's clock this many seconds ahead of the machine's, from now on and after restarts."""
        # In place: the process has mapped the file.
        with self._file(part).open("r+b" if self._file(part).exists() else "wb") as file:
            file.write(struct.pack("=q", seconds))

    def _file(self, part: str) -> Path:
        return self._folder / f"{part}.clock"
