"""The API with a producer thread that dies at its next send while the file PRODUCER_DIES_WHILE exists."""

import os
from collections.abc import Sequence
from pathlib import Path

from api.app import create_app
from common.kafka import KafkaSender, Record
from common.settings import load_api_settings


class DyingSender(KafkaSender):
    def send(self, records: Sequence[Record]) -> list[Exception | None]:
        if Path(os.environ["PRODUCER_DIES_WHILE"]).exists():
            raise SystemExit
        return super().send(records)


settings = load_api_settings()
app = create_app(settings, DyingSender(settings.kafka, settings.kafka.topic))
