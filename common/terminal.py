"""Makes untrusted text safe to print on a terminal."""


def printable(text: str) -> str:
    """The text with all control characters (escapes, line ends, direction marks) escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
