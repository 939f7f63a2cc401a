"""`python -m ops.settings_page` writes docs/settings.md and .env.example from common/settings.py."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import settings
from common.environment import Variable, variables

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "settings.md"
EXAMPLE = ROOT / ".env.example"

PROCESSES: Mapping[str, type] = {
    "API": settings.ApiSettings,
    "consumer": settings.ConsumerSettings,
    "console": settings.ConsoleSettings,
    "export": settings.ExportSettings,
    "topics": settings.TopicSettings,
    "dead letters": settings.DeadLetterSettings,
    "forget": settings.ForgetSettings,
    "`make run`": settings.LocalSettings,
}
# A variable is under the first subject that has it.
_SUBJECTS: Mapping[str, tuple[type, ...]] = {
    "Logs": (settings.LogSettings,),
    "Kafka": (settings.KafkaSettings, settings.TopicSettings),
    "MongoDB": (settings.MongoSettings,),
    "API": (settings.ApiSettings,),
    "Consumer": (settings.ConsumerSettings,),
    "Console": (settings.ConsoleSettings,),
    "Export": (settings.ExportSettings,),
    "`make run`": (settings.LocalSettings,),
}

_PREFACE = """# Settings

`make docs` writes this page from [common/settings.py](../common/settings.py); edit that file. How to set them:
[running.md](running.md#settings).

A process reads its settings once, when it starts: a changed setting needs a restart. Only the file that `API_KEYS_FILE`
names is read again when it changes. An empty variable has its default, unless stated otherwise.

Each row says which processes read the setting: the API (and `python -m api.journal`), the consumer, the console, the
export (and reconcile and restore), `python -m common.topics` (topics), `python -m consumer.dlq` (dead letters),
`python -m consumer.forget` (forget), and `make run` with its tools.

API, consumer, console and `python -m ops.export serve` log the values in use once, in the line `settings`: as JSON all
of them; as text, for people, those that differ from the defaults. Passwords and keys are not shown, of `MONGO_URI` only
the hosts, and nothing of any other value with an `@`, which may contain a login.
"""

_EXAMPLE_PREFACE = """\
# Every setting, with its default. Copy to .env and change what you need: every command reads it. The environment wins.
# `make docs` writes this file from common/settings.py; docs/settings.md has the allowed values.
# Under `make up` addresses, folders, files and how to log in to Kafka are fixed in docker-compose.yml.
"""


def by_subject() -> dict[str, dict[str, Variable[Any]]]:
    """By subject, its variables by name."""
    subjects: dict[str, dict[str, Variable[Any]]] = {}
    for title, groups in _SUBJECTS.items():
        seen = {name for declared in subjects.values() for name in declared}
        declared = {each.name: each for group in groups for each in variables(group)}
        subjects[title] = {name: each for name, each in declared.items() if name not in seen}
    return subjects


def page() -> str:
    """The text of docs/settings.md."""
    parts = [_PREFACE]
    for title, declared in by_subject().items():
        parts.append(f"\n## {title}\n\n| Variable | Read by | Default | Allowed | Meaning |\n|---|---|---|---|---|\n")
        parts += map(_row, declared.values())
    return "".join(parts)


def _row(declared: Variable[Any]) -> str:
    readers = [process for process, read in PROCESSES.items() if declared in set(variables(read))]
    read_by = "all" if len(readers) == len(PROCESSES) else ", ".join(readers)
    default = declared.default if declared.computed or not declared.default else f"`{declared.default}`"
    cells = (f"`{declared.name}`", read_by, default, declared.form.allowed, declared.meaning)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def example() -> str:
    """The text of .env.example. What has no fixed default is commented out."""
    parts = [_EXAMPLE_PREFACE]
    for title, declared in by_subject().items():
        parts.append(f"\n# ── {title} ──\n")
        for each in declared.values():
            meaning = f"{each.meaning} Default: {each.default}." if each.computed else each.meaning
            parts += [f"# {line}\n" for line in textwrap.wrap(meaning, 118, break_on_hyphens=False)]
            parts.append(f"# {each.name}=\n" if each.computed or not each.default else f"{each.name}={each.default}\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
    EXAMPLE.write_text(example())
