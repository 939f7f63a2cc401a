"""The API, whose journal fails permanently once the file JOURNAL_BREAKS exists, as on a disk with a bad block."""

import os
import threading
from pathlib import Path

from api.app import create_app
from api.journal.journal import DATA
from common.settings import load_api_settings
from tests.bad_disks import BROKEN, break_for_good
from tests.waiting import eventually


def _break() -> None:
    sign = Path(os.environ["JOURNAL_BREAKS"])
    eventually(sign.exists, timeout=600)
    for file in Path(os.environ["API_JOURNAL_DIR"]).resolve().glob(f"*/{DATA}"):
        break_for_good(BROKEN, file)
    # The test continues when the file is gone.
    sign.unlink()


app = create_app(load_api_settings())
threading.Thread(target=_break, daemon=True).start()
