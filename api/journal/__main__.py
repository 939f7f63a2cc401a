"""`python -m api.journal`: list the damaged journals that were set aside, and restore their readable events.

Safe beside a running API, with the same settings: it never touches a journal that a worker has claimed.
"""

import os
import shutil
from pathlib import Path

import click

from api.journal.folders import SetAside, claim, copy_events, restored_folder, room_for_copy, set_aside_files, told
from api.journal.journal import DATA
from api.journal.power import sync_folder
from api.journal.salvage import salvaged
from common.errors import JournalError, PulseError
from common.settings import load_api_settings, read_dotenv


@click.group()
def cli() -> None:
    """Damaged journals that the API has set aside: their accepted events are not sent."""


@cli.command("list")
def show() -> None:
    """Show each file with its number of readable events."""
    root = _root()
    found = set_aside_files(root)
    click.echo(f"API_JOURNAL_DIR={root}: {len(found)} set aside")
    for aside in found:
        click.echo(f"{aside.events:>9} events  {aside.file.stat().st_size >> 10:>9} KiB  {aside.file}")


@cli.command("restore")
def restore_all() -> None:
    """Copy the readable events of the files to folders from which the next worker that starts sends them.

    Events that are already in Kafka may be sent again; the consumer stores them once.
    """
    root = _root()
    found = set_aside_files(root)
    click.echo(f"API_JOURNAL_DIR={root}: {len(found)} set aside")
    for aside in found:
        events = restore(root, aside)
        click.echo(f"{events:>9} events  from {aside.file}")
        if not events:
            click.echo("                  no event can be read; delete the file if you do not need it")
    if found:
        click.echo("Restart the API: it sends them first. The files are now named restored-…; delete them afterwards.")


def restore(root: Path, aside: SetAside) -> int:
    """Write a file's events into a new journal, such as a dead worker leaves, and rename the file.

    Returns the number of events; changes nothing if there are none. Raises JournalError; can be called again after
    that, or after a kill. Blocks during the reads and writes.
    """
    file = aside.file
    making, made = restored_folder(root, file)
    with told(making):
        making.mkdir(exist_ok=True)
        claimed = claim(making)
        if claimed is None:
            raise JournalError(f"another process restores {file}")
        try:
            if made.exists():
                # An earlier call was interrupted between the two renames.
                events = aside.events
            else:
                (making / DATA).unlink(missing_ok=True)
                events = _copy(file, making)
                if not events:
                    return 0
                sync_folder(making)
                making.rename(made)
                sync_folder(root)
            file.rename(file.with_name(f"restored-{file.name.removeprefix('damaged-')}"))
        finally:
            shutil.rmtree(making, ignore_errors=True)
            claimed.release()
    return events


def _copy(file: Path, folder: Path) -> int:
    """Write a file's events into the journal of a claimed folder."""
    copied = copy_events(salvaged(file), folder, room_for_copy(file))
    if os.geteuid() == 0:
        # The API may run as another user.
        owner = file.stat()
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner.st_uid, owner.st_gid)
    return copied


def _root() -> Path:
    read_dotenv()
    settings = load_api_settings().journal
    if settings is None:
        raise click.ClickException("the journal is off: API_JOURNAL_DIR is empty")
    return settings.folder


if __name__ == "__main__":
    try:
        cli(prog_name="python -m api.journal")
    except PulseError as error:
        raise SystemExit(f"api.journal: {error}") from error
