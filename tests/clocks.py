"""Clocks that tests can step, one for each part."""

import struct
from pathlib import Path

from tests.compiler import preloaded


class Clocks:
    """The real-time clocks of processes. Their monotonic clocks are those of the machine."""

    def __init__(self, folder: Path) -> None:
        """Compile the library, or skip or fail the test, as `preloaded` does."""
        self._folder = folder
        self._library = preloaded(Path(__file__).with_name("clock.c"), folder)

    def environment(self, part: str) -> dict[str, str]:
        """The variables of the part's process. Its clock is right at first."""
        self.step(part, 0)
        return {"LD_PRELOAD": str(self._library), "CLOCK_OFFSET": str(self._file(part))}

    def step(self, part: str, seconds: int) -> None:
        """Set the part's clock N seconds ahead of the machine's, from now on and after restarts."""
        # Write in place, since the process has mapped the file.
        with self._file(part).open("r+b" if self._file(part).exists() else "wb") as file:
            file.write(struct.pack("=q", seconds))

    def _file(self, part: str) -> Path:
        return self._folder / f"{part}.clock"
