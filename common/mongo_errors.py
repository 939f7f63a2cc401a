"""Errors of MongoDB's driver, in one line."""

from pymongo.errors import OperationFailure


def first_line(error: Exception) -> str:
    """The message of a driver's error, in one line."""
    if isinstance(error, OperationFailure) and error.details:
        return f"{error.details.get('errmsg', error)} (code {error.code})"
    # The driver calls an operation that timed out cancelled.
    return str(error).split(", Timeout:")[0].splitlines()[0].replace("operation cancelled", "no answer in time")
