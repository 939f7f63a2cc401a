"""Text from anyone, made safe to print on a terminal."""


def printable(text: str) -> str:
    """Whatever could steer a terminal (escapes, line ends, direction marks) is written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
