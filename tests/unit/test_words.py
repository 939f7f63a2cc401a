"""The project's prose uses the terms of the field: the table has words to avoid, and the term to use."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

SUFFIXES = (".py", ".md", ".js", ".html", ".yml")

TERMS = {
    r"anew": "again, or new",
    r"anybody|anyone|everybody|everyone": "any client, all users",
    r"(?:are|is) away": "unavailable, not reachable",
    r"becomes? of|became of": "the state, the result",
    r"by way of": "via",
    r"dear(?:er|est)?": "expensive",
    r"for ever": "forever",
    r"hang(?:s|ing)? up": "close the connection",
    r"holes?": "vulnerability",
    r"in vain": "without a result",
    r"meanwhile": "in the meantime, until then",
    r"mend(?:s|ed|ing)?": "fix, or repair",
    r"nobody|no one": "no client, no process, no user",
    r"nought": "zero",
    r"of whom": "two sentences",
    r"reckon(?:s|ed|ing)?": "estimate",
    r"rubbish": "invalid",
    r"so many": "a number, or N",
    r"somebody|someone": "the operator, a client, another process",
    r"whatever": "any, all, independent of",
    r"whoever": "the operator, a client, another process",
}

EXEMPT = (
    # They quote the words.
    "CONTRIBUTING.md",
    "tests/recordings/",
    "tests/unit/test_words.py",
    # Files of others.
    "api/snippet/pulse.min.js",
)

NAMES = {
    # The repair of SDKs' values: pulse_api_values_mended_total, and the code behind it.
    "mended": (
        "api/fast_path.py",
        "api/protocols/",
        "common/metrics.py",
        "tests/unit/test_mending.py",
        "tests/unit/test_recordings.py",
        "tests/unit/test_sdk_routes.py",
        "tests/e2e/test_browser_sdks.py",
        "tests/sdks/",
        "docs/metrics.md",
        "docs/sdks.md",
        "CHANGELOG.md",
    ),
    "mend": ("api/protocols/", "tests/unit/test_mending.py"),
    "mending": ("api/protocols/", "tests/"),
    # The name of a decision's file, which links outside of the repository may have.
    "nobody": ("docs/decisions/README.md",),
}
"""Words that are names in the code or of files, by the files that may use them."""

AVOIDED = {
    re.compile(rf"(?<![a-z])(?:{word})(?![a-z])".replace(" ", "[ _]"), re.IGNORECASE): term
    for word, term in TERMS.items()
}
"""A word is also found within a name such as `made_anew`."""


def tracked() -> Iterator[Path]:
    """The files with prose, without those exempt."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    for name in listed.stdout.split("\0"):
        if name.endswith(SUFFIXES) and not name.startswith(EXEMPT) and (ROOT / name).is_file():
            yield Path(name)


def faults(file: Path, text: str) -> Iterator[str]:
    """A line for each avoided word in a file's text."""
    for number, line in enumerate(text.splitlines(), 1):
        for avoided, term in AVOIDED.items():
            for found in avoided.finditer(line):
                if not str(file).startswith(NAMES.get(found[0].lower(), ("\0",))):
                    yield f"{file}:{number}: '{found[0]}': write {term}"


def test_a_word_to_avoid_is_found_with_the_term_to_use() -> None:
    assert list(faults(Path("a.md"), "Fix it.\nMend it, for ever.\nmade_anew, mender")) == [
        "a.md:2: 'for ever': write forever",
        "a.md:2: 'Mend': write fix, or repair",
        "a.md:3: 'anew': write again, or new",
    ]


def test_a_name_of_the_code_is_no_fault_in_its_files() -> None:
    assert not list(faults(Path("api/protocols/mending.py"), "self.mended += 1"))
    assert list(faults(Path("api/app.py"), "mended"))


def test_all_prose_uses_the_terms() -> None:
    found = [fault for file in tracked() for fault in faults(file, (ROOT / file).read_text())]
    assert not found, "\n".join(["words to avoid (see Style in CONTRIBUTING.md):", *found])
