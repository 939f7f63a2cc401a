"""The documents name only pages, headings, files and commands that exist."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain, pairwise
from operator import itemgetter
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from common.events import EventSchema
from loadtest import plan
from tests import ROOT

PARTS = ("api", "common", "consumer", "docs", "kubernetes", "loadtest", "ops", "requirements", "terraform", "tests")
TREE = [
    path.relative_to(ROOT)
    for path in chain(ROOT.glob("*"), *(ROOT.joinpath(part).rglob("*") for part in (*PARTS, ".ci", ".github")))
]
PAGES = [path for path in TREE if path.suffix == ".md" and ".terraform" not in path.parts]
MAKEFILE = (ROOT / "Makefile").read_text()

IN_A_PART = re.compile(rf"(?<![\w/.$-])(?:{'|'.join(PARTS)})/[\w.*/-]*[\w*/]")
LIKE_A_PATH = re.compile(r"[\w.*-]+(/[\w.*-]+)*/?")
OF_SOURCES = (".cfg", ".env", ".hcl", ".ini", ".json", ".md", ".py", ".tf", ".toml", ".yaml", ".yml")
# Texts that look like paths of this repository: media types, and files that exist only after setup or at runtime.
NO_FILES = re.compile(r"(application|text|var)/|\.env$|\.terraform\.lock\.hcl$|.*\.tfvars$")


@cache
def tokens(page: Path) -> list[Token]:
    """The tokens of the page, including those inside paragraphs and cells."""
    blocks = MarkdownIt().enable("table").parse((ROOT / page).read_text())
    return [token for block in blocks for token in (block, *(block.children or ()))]


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The target of each relative link of a page: a page or file, and an anchor."""
    for token in tokens(page):
        target = str(token.attrs.get("href", token.attrs.get("src", "https:")))
        if not re.match("[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield Path(ROOT, page.parent, path).resolve().relative_to(ROOT) if path else page, anchor


@cache
def headings(page: Path) -> list[str]:
    return [after.content for token, after in pairwise(tokens(page)) if token.type == "heading_open"]


@cache
def anchors(page: Path) -> list[str]:
    """The anchors that GitHub generates for the headings."""
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(page)]
    seen: Counter[str] = Counter()
    for number, slug in enumerate(slugs):
        slugs[number] = f"{slug}-{seen[slug]}" if seen[slug] else slug
        seen[slug] += 1
    return slugs


def named_files(page: Path) -> set[str]:
    """The paths on a page: texts that begin with one of our folders, and texts in backquotes that look like a file."""
    quoted = {token.content for token in tokens(page) if token.type == "code_inline"}
    files = {text for text in quoted if LIKE_A_PATH.fullmatch(text) and ("/" in text or text.endswith(OF_SOURCES))}
    files.update(IN_A_PART.findall((ROOT / page).read_text()))
    return {name for name in files if not NO_FILES.match(name)}


@pytest.mark.parametrize("page", PAGES, ids=str)
class TestEveryPage:
    def test_links_to_files_that_exist(self, page: Path) -> None:
        assert {str(path) for path, _ in links(page) if not (ROOT / path).exists()} == set()

    def test_links_to_headings_that_exist(self, page: Path) -> None:
        assert [(path, anchor) for path, anchor in links(page) if anchor and anchor not in anchors(path)] == []

    def test_names_sections_that_exist(self, page: Path) -> None:
        named = re.findall(r'([\w/]+\.md)[`)]*,\s"([^"]+)"', (ROOT / page).read_text())
        sections = [(path, " ".join(title.split())) for path, title in named]
        assert [(path, title) for path, title in sections if not any(title in it for it in headings(Path(path)))] == []

    def test_names_files_that_exist(self, page: Path) -> None:
        """A page may give only the end of a path, as in `overlays/gke/api.yaml`."""
        assert {name for name in named_files(page) if not any(path.match(name) for path in TREE)} == set()

    def test_names_commands_of_the_makefile(self, page: Path) -> None:
        code = "\n".join(token.content for token in tokens(page) if token.type in {"code_inline", "fence"})
        named = re.findall(r"^make ([a-z0-9-]+)", code, re.MULTILINE)
        assert {name for name in named if not re.search(rf"^{name}:.*## ", MAKEFILE, re.MULTILINE)} == set()


def test_the_page_on_the_api_lists_the_fields_of_an_event() -> None:
    section = (ROOT / "docs" / "api.md").read_text().partition("\n## What an event has\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == EventSchema().fields.keys()


def test_the_plan_in_the_page_on_scaling_is_current() -> None:
    assert plan.DOCUMENT_FILE.read_text() == plan.document(), "run `make docs`"


def test_make_help_explains_every_command() -> None:
    printed = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=30).stdout
    explained = re.findall(r"^  make ([a-z0-9-]+) +[A-Z(]", printed, re.MULTILINE)
    assert sorted(explained) == sorted(re.findall(r"^([a-z0-9-]+):.*## ", MAKEFILE, re.MULTILINE))
    assert printed.count("  make ") == len(explained)


def test_the_index_lists_each_decision_once_with_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\[(.+)\]\((\d{4}-.+\.md)\)", (folder / "README.md").read_text())
    assert sorted(listed, key=itemgetter(1)) == [
        (path.read_text().partition("\n")[0].removeprefix("# "), path.name) for path in sorted(folder.glob("0*.md"))
    ]
