"""The measures of a soak: its first quarter is compared with the last."""

from tests.measures import grown, percentile, table

GROWING = [{"API RSS MiB": float(value), "answers p99 ms": value / 10} for value in (10, 10, 11, 12, 15, 18, 20, 20)]
FLAT = [{"API RSS MiB": float(value), "API descriptors": 3 + value % 2} for value in (50, 51, 50, 52, 51, 50, 54, 54)]


def test_the_table_has_the_medians_of_both_quarters_and_their_ratio() -> None:
    assert [line.split() for line in table(GROWING)][1] == ["API", "RSS", "MiB", "10.0", "20.0", "2.00"]


def test_a_resource_that_grew_is_named_and_a_latency_is_not() -> None:
    assert grown(GROWING) == ["API RSS MiB"]


def test_a_tenth_and_one_unit_more_are_no_growth() -> None:
    assert grown(FLAT) == []


def test_a_percentile_of_no_values_is_zero() -> None:
    assert [percentile([], 0.99), percentile([1, 2, 3, 4], 0.5)] == [0, 3]
