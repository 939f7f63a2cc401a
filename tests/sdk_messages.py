"""Messages of SDKs for hypothesis: likely ones, odd ones, and their headers."""

from hypothesis import strategies as st

from api.protocols.segment import CALLS

HALF = "\ud83d"
TEXTS = st.text(st.characters() | st.sampled_from(["$", "\0", HALF]), max_size=6) | st.sampled_from(
    ["undefined", "null", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.123456+0100", "9999-12-31T23:59:59-01:00"]
)
SCALARS = st.none() | st.booleans() | TEXTS | st.floats() | st.integers() | st.integers(-(10**320), 10**320)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=4)
IDS = TEXTS | st.integers() | SCALARS | st.text(min_size=120, max_size=260)
FIELDS = {
    "type": st.sampled_from([*CALLS]) | VALUES,
    **dict.fromkeys(["userId", "anonymousId", "previousId", "groupId", "messageId"], IDS),
    **dict.fromkeys(["event", "name", "category"], TEXTS | st.just("Order Completed") | VALUES),
    **dict.fromkeys(["properties", "traits", "context"], OBJECTS | VALUES),
    **dict.fromkeys(["timestamp", "originalTimestamp", "sentAt"], TEXTS | VALUES),
    **dict.fromkeys(["integrations", "channel", "_metadata", "writeKey", "customer_id", "$x", ""], VALUES),
}
MESSAGES = st.fixed_dictionaries({}, optional=FIELDS)
# Most of these are valid.
LIKELY = st.builds(
    lambda odd, plain: {**odd, **plain}, MESSAGES, st.just({"type": "track", "event": "e", "userId": "u"})
)
CLOUD_FIELDS = {
    **dict.fromkeys(["id", "source", "type", "subject"], TEXTS | IDS),
    **dict.fromkeys(["time", "datacontenttype", "dataschema", "data", "data_base64", "tenant"], VALUES),
}
CLOUDS = st.fixed_dictionaries({"specversion": st.just("1.0") | VALUES}, optional=CLOUD_FIELDS)
PATHS = st.sampled_from([f"/v1/{call}" for call in CALLS])
HEADERS = st.dictionaries(
    st.sampled_from(["AnonymousId", "SentAt", "X-Retry-Count", "Authorization", "Content-Type", "ce-id", "ce-time"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12) | st.sampled_from(["Basic eA==", "YQ=="]),
)
