"""What MongoDB's driver says of a failure, in one line."""

from pymongo.errors import OperationFailure


def first_line(error: Exception) -> str:
    """What an error of the driver says, in one line."""
    if isinstance(error, OperationFailure) and error.details:
        return f"{error.details.get('errmsg', error)} (code {error.code})"
    # What the driver calls cancelled is what it gave up waiting for.
    return str(error).split(", Timeout:")[0].splitlines()[0].replace("operation cancelled", "no answer in time")
