"""`python -m consumer.dlq`: look at the dead letters, and send them back to their topic.

Joins no consumer group and never commits. A command sees the topic as it was at its start.
"""

import functools
import logging.config
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from common.commands import Commands
from common.events import parse_timestamp
from common.kafka import KafkaReader, KafkaSender, RecordReader, RecordSender
from common.logs import logging_config
from common.settings import load_dead_letter_settings, read_dotenv
from consumer.dlq import replay as replaying
from consumer.dlq.letters import Filter, LetterBox
from consumer.dlq.views import as_json, statistics, table, whole

LIST_LIMIT = 50
_AGO = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_WIDEST = 10_000  # characters


@dataclass(frozen=True, slots=True)
class Topics:
    """The two topics with their clients. A letter without an origin goes to `events`."""

    events: str
    letters: str
    open_reader: Callable[[], RecordReader]
    open_sender: Callable[[str], RecordSender]

    @contextmanager
    def letter_box(self) -> Iterator[LetterBox]:
        """The letters, read with a progress bar if standard error is a terminal."""
        errors = Console(stderr=True)
        with closing(self.open_reader()) as reader:
            watched = functools.partial(
                track,
                description="reading",
                total=reader.size,
                console=errors,
                transient=True,
                disable=not errors.is_terminal,
            )
            yield LetterBox(reader, self.letters, self.events, watched=watched)


class Moment(click.ParamType[datetime]):
    """A time: RFC 3339, or how long ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            if ago := _AGO.fullmatch(value):
                return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            return parse_timestamp(value)
        except (ValueError, OverflowError):
            allowed = "give one such as 2026-01-31T12:00:00Z, or how long ago, such as 30m, 2h or 1d"
            self.fail(f"{value} is not a time: {allowed}.", param, ctx)


def filtered(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the filter options to a command, as one `wanted: Filter`."""

    @click.option("--reason", "reasons", multiple=True, help="With this class of error; may be repeated.")
    @click.option("--key", "keys", multiple=True, help="With this key, that is customer; may be repeated.")
    @click.option("--event-type", "event_types", multiple=True, help="Of this type; may be repeated.")
    @click.option("--since", type=Moment(), help="Failed then or later: 2026-01-31T12:00:00Z, or 30m, 2h, 1d ago.")
    @click.option("--until", type=Moment(), help="Failed before then.")
    @functools.wraps(command)
    def with_filter(
        *arguments: Any,
        reasons: tuple[str, ...],
        keys: tuple[str, ...],
        event_types: tuple[str, ...],
        since: datetime | None,
        until: datetime | None,
        **options: Any,
    ) -> Any:
        wanted = Filter(reasons, tuple(os.fsencode(key) for key in keys), event_types, since, until)
        return command(*arguments, wanted=wanted, **options)

    return with_filter


replayed_too = click.option("--all", "with_replayed", is_flag=True, help="Also those that were sent back.")


@click.group(cls=Commands)
@click.pass_context
def cli(context: click.Context) -> None:
    """Look at the dead letters, and send them back to their topic."""
    if context.obj is None:
        read_dotenv()
        settings = load_dead_letter_settings()
        logging.config.dictConfig(logging_config(settings.log))
        kafka = settings.kafka
        click.echo(f"Dead letters in {kafka.dlq_topic} at {kafka.broker_list}", err=True)
        context.obj = Topics(
            events=kafka.topic,
            letters=kafka.dlq_topic,
            open_reader=lambda: KafkaReader(kafka, kafka.dlq_topic),
            open_sender=lambda topic: KafkaSender(kafka, topic),
        )


@cli.command("list")
@filtered
@replayed_too
@click.option("--limit", type=click.IntRange(1), help=f"The newest N; without --json {LIST_LIMIT} by default.")
@click.option("--json", "in_json", is_flag=True, help="All of each letter, as one line of JSON.")
@click.pass_obj
def list_(topics: Topics, wanted: Filter, with_replayed: bool, limit: int | None, in_json: bool) -> None:
    """The waiting letters, the newest last."""
    with topics.letter_box() as box:
        letters = box.find(wanted, with_replayed=with_replayed)
        if limit is None:
            limit = len(letters) if in_json else LIST_LIMIT
        shown = letters[-limit:]
        if in_json:
            for letter, record in box.fetch(shown):
                click.echo(as_json(letter, record))
        elif shown:
            # Do not truncate the output for programs.
            width = None if sys.stdout.isatty() else _WIDEST
            Console(width=width).print(table(shown, with_replayed=with_replayed))
    if not letters:
        click.echo("No letters.", err=True)
    elif len(shown) < len(letters):
        click.echo(f"These are the newest {len(shown):,} of {len(letters):,} letters; see --limit.", err=True)


@cli.command()
@click.argument("letter")
@click.pass_obj
def show(topics: Topics, letter: str) -> None:
    """One LETTER in full: headers and value. Name it as `list` does (0-17), or by its origin."""
    with topics.letter_box() as box:
        found = box.get(letter)
    if found is None:
        raise click.ClickException(f"There is no letter {letter} in {topics.letters}.")
    for line in whole(*found):
        click.echo(line)


@cli.command()
@filtered
@replayed_too
@click.pass_obj
def stats(topics: Topics, wanted: Filter, with_replayed: bool) -> None:
    """The number of waiting letters, by reason and by day."""
    with topics.letter_box() as box:
        letters = box.find(wanted, with_replayed=with_replayed)
    click.echo(f"{len(letters):,} letters in {topics.letters}")
    if letters:
        Console().print(statistics(letters))


@cli.command()
@filtered
@click.option("--limit", type=click.IntRange(1), help="At most N, the oldest first.")
@click.option(
    "--max-replays", type=click.IntRange(1), default=3, show_default=True, help="Skip letters sent back N times."
)
@click.option("--keep-going", is_flag=True, help="Continue after a letter that cannot be sent.")
@click.option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing.")
@click.pass_obj
def replay(
    topics: Topics, wanted: Filter, *, limit: int | None, max_replays: int, keep_going: bool, dry_run: bool
) -> None:
    """Send letters back to their topics, oldest first. May be interrupted and repeated.

    Exits 1 if a letter could not be sent, or if all selected letters have been sent back too often before.
    """
    with topics.letter_box() as box:
        found = box.find(wanted)
        letters = [letter for letter in found if letter.replays < max_replays]
        stay = _what_stays(letter.replays for letter in found if letter.replays >= max_replays)
        letters = letters[:limit]
        if dry_run:
            for topic, count in (Counter(letter.topic for letter in letters) or {topics.events: 0}).items():
                click.echo(f"{count:,} letters would go to {topic}.")
            if stay:
                click.echo(stay)
            return
        columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        errors = Console(stderr=True)
        with (
            closing(replaying.Replayer(topics.letters, topics.open_sender)) as replayer,
            _stop_signals() as stopping,
            Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress,
        ):
            task = progress.add_task("", total=len(letters))
            outcome = replaying.replay(
                box.fetch(letters),
                replayer,
                keep_going=keep_going,
                stopping=stopping.is_set,
                on_progress=functools.partial(progress.advance, task),
            )
    _print_outcome(outcome, len(letters), stay)
    if stopping.is_set():
        sys.exit(130)
    if outcome.failed or outcome.problem is not None or (stay and not letters):
        sys.exit(1)


def _what_stays(replays: Iterable[int]) -> str:
    """The message for letters that were sent back too often; empty if there are none."""
    times = list(replays)
    if not times:
        return ""
    return f"{len(times):,} more stay, sent back too often before: --max-replays {max(times) + 1} sends them too."


def _print_outcome(outcome: replaying.Outcome, letters: int, stay: str) -> None:
    click.echo(f"{outcome.sent:,} of {letters:,} letters were sent back. {stay}".rstrip())
    if outcome.failed:
        letter, error = outcome.failed[0]
        count = len(outcome.failed)
        click.echo(f"{count:,} could not be sent; the first, {letter.place}, to {letter.topic}: {error!r}", err=True)
    if outcome.problem is not None:
        click.echo(f"Stopped: {outcome.problem}", err=True)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C or SIGTERM; a second one ends the process immediately."""
    stopping = threading.Event()

    def stop(number: int, _: object) -> None:
        stopping.set()
        signal.signal(number, before[number])
        # Not through Python's buffers, which may be in use during the signal.
        os.write(2, b"\nStopping after this chunk ...\n")

    before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    cli(prog_name="python -m consumer.dlq")
