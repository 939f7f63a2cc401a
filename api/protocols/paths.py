"""Which paths are those of SDKs, as far as it has to be known before the app, and how much may be sent there."""

from common.events import MAX_BATCH_BYTES

MAX_MESSAGES = 2_500
"""In a batch."""
MAX_SDK_BATCH_BYTES = 4608 * 1024
"""Of a batch, as sent and unzipped: 4.5 MiB."""
MAX_NESTED = 400_000
"""Arrays and objects in a body, counted by their brackets, those in texts too: each costs as much as a long text."""

_PREFIXES = ("/v1/", "/beacon/", "/sourceConfig", "/api/v1/cloudevents")


def is_for_sdks(path: str) -> bool:
    """Whether SDKs call it, so that it is answered in their form: see docs/sdks.md."""
    return path.startswith(_PREFIXES)


def most_bytes(path: str) -> int:
    """How large a body may be that anything at this path takes."""
    return MAX_SDK_BATCH_BYTES if is_for_sdks(path) else MAX_BATCH_BYTES
