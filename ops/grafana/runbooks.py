"""The sections of docs/operations.md, which the dashboard has as panels."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

RUNBOOKS = Path(__file__).parent.parent.parent / "docs" / "operations.md"
_FIRST_PANEL = 100


class Runbook(NamedTuple):
    """A section, and the id of its panel."""

    panel: int
    title: str
    text: str


def anchor(heading: str) -> str:
    """A heading's anchor, as Markdown pages have it."""
    return heading.lower().replace(" ", "-")


def read_runbooks() -> Iterator[Runbook]:
    """The sections of docs/operations.md."""
    sections = re.split(r"^## (.+)\n", RUNBOOKS.read_text(), flags=re.MULTILINE)[1:]
    for number, (title, body) in enumerate(zip(sections[::2], sections[1::2], strict=True)):
        yield Runbook(_FIRST_PANEL + number, title, body.strip())
