"""The paths of SDKs and their limits, as far as code in front of the app needs them."""

from common.events import MAX_BATCH_BYTES

MAX_MESSAGES = 2_500
"""The limit for a batch."""
MAX_SDK_BATCH_BYTES = 4608 * 1024
"""The limit for a batch, as sent and decompressed: 4.5 MiB."""
MAX_NESTED = 400_000
"""The limit for arrays and objects in a body, counting all brackets: each costs as much as a long string."""

_PREFIXES = ("/v1/", "/beacon/", "/sourceConfig", "/api/v1/cloudevents")


def is_for_sdks(path: str) -> bool:
    """Whether SDKs call this path, so that the answer has their form: see docs/sdks.md."""
    return path.startswith(_PREFIXES)


def most_bytes(path: str) -> int:
    """The maximum size of a body at this path, in bytes."""
    return MAX_SDK_BATCH_BYTES if is_for_sdks(path) else MAX_BATCH_BYTES
