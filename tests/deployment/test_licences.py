"""The licences of the packages in our images allow all users to run and redistribute the images."""

import re
from importlib import metadata
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
IMAGES = ("api", "consumer", "console", "export", "loadtest")
ONLY_ELSEWHERE = {"colorama", "pywin32"}
"""Packages for Windows, which no image has."""

PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Zlib|CC0|ZPL|OLDAP|Unlicense"
    # Copyleft only for the package's own files or the library, which we do not change.
    r"|MPL|Mozilla|LGPL|Lesser General Public License"
)
COPYLEFT = re.compile(r"\bA?GPL|GNU (Affero )?General")


def packages(image: str) -> set[str]:
    pins = re.findall(r"^([A-Za-z0-9._-]+)==", (REQUIREMENTS / f"{image}.txt").read_text(), re.MULTILINE)
    return set(pins) - ONLY_ELSEWHERE


def licence(package: str) -> str:
    about = metadata.distribution(package).metadata
    classifiers = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if line.startswith("License")]
    return str(about["License-Expression"] or "; ".join(classifiers) or about["License"] or "none stated")


@pytest.mark.parametrize("image", IMAGES)
def test_every_package_of_an_image_has_a_permissive_licence(image: str) -> None:
    stated = {package: licence(package) for package in sorted(packages(image))}
    assert stated
    assert {
        package: text for package, text in stated.items() if not PERMISSIVE.search(text) or COPYLEFT.search(text)
    } == {}
