"""The API repairs SDKs' values that cannot be stored, and changes no others."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.protocols.mending import Mender
from common.json_values import MAX_LEVELS, Judge
from common.metrics import MENDED
from tests.odd_json import nested

HALF = "\ud83d"


@pytest.mark.parametrize(
    ("sent", "kept", "kind"),
    [
        (math.nan, None, "not_finite"),
        (math.inf, None, "not_finite"),
        ([1, {"a": -math.inf}], [1, {"a": None}], "not_finite"),
        (2**63, float(2**63), "large_integer"),
        (-(2**63) - 1, -float(2**63), "large_integer"),
        (10**400, None, "not_finite"),
        (f"a{HALF}b", "a\ufffdb", "surrogate"),
        ({f"a{HALF}": 1}, {"a\ufffd": 1}, "surrogate"),
        ({"a\0b": "c\0d"}, {"a\ufffdb": "c\0d"}, "nul_in_key"),
        ({"$set": {"$ref": 1}}, {"\uff04set": {"\uff04ref": 1}}, "dollar_key"),
        ({"": 1}, {"_": 1}, "empty_key"),
        ({"": 1, "_": 2}, {"__": 1, "_": 2}, "empty_key"),
        ({"$a": 1, "\uff04a": 2}, {"\uff04a_": 1, "\uff04a": 2}, "dollar_key"),
        (nested(MAX_LEVELS, {"$x": [1]}), nested(MAX_LEVELS, '{"$x":[1]}'), "too_deep"),
        (nested(MAX_LEVELS, [math.nan, HALF]), nested(MAX_LEVELS, '[null,"\ufffd"]'), "too_deep"),
    ],
)
def test_a_value_that_cannot_be_stored_is_repaired_and_counted(sent: Any, kept: Any, kind: str) -> None:
    mender = Mender()
    assert mender.mend(sent) == kept
    assert mender.mended[kind] > 0


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(2**63), 2**63 - 1, 1e308, "", "ä€😀\0", {"a.b": 1, "a$": 2, "_": 3, " ": None}, nested(16, "x")],
)
def test_a_value_that_can_be_stored_stays_unchanged(value: Any) -> None:
    mender = Mender()
    assert mender.mend(value) == value
    assert not mender.mended


TEXTS = st.text(st.characters() | st.sampled_from(["$", "\0", HALF, "\udc00", "_", "\uff04"]), max_size=5)
NUMBERS = st.floats() | st.integers() | st.integers(-(10**400), 10**400)
VALUES = st.recursive(
    st.none() | st.booleans() | TEXTS | NUMBERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.integers(0, 40))
def test_a_repaired_value_can_be_stored(value: Any, levels: int) -> None:
    mender = Mender()
    mended = mender.mend(nested(levels, value))
    assert Judge().faults_of(mended) is None
    assert set(mender.mended) <= set(MENDED)
    json.dumps(mended, allow_nan=False).encode()


@given(VALUES)
def test_no_value_is_lost(value: Any) -> None:
    def leaves(of: Any) -> int:
        parts = of.values() if isinstance(of, dict) else of
        return sum(map(leaves, parts)) if isinstance(of, dict | list) else 1

    assert leaves(Mender().mend(value)) == leaves(value)


@given(VALUES)
def test_a_repaired_value_needs_no_second_repair(value: Any) -> None:
    mended, again = Mender().mend(value), Mender()
    assert again.mend(mended) == mended
    assert not again.mended
