"""Shared by the commands with subcommands (the API's image has no click and must not import this)."""

from typing import Any

import click

from common.errors import PulseError
from common.kafka import KafkaError


class Commands(click.Group):
    """Errors of Pulse and of Kafka end a command with one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PulseError as error:
            raise click.ClickException(str(error)) from error
        except KafkaError as error:
            raise click.ClickException(f"Kafka refused: {error!r}") from error
