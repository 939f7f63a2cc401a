"""The fast path for the common case: msgspec decoders, generated from marshmallow schemas.

A schema stays the single source of truth. The schema accepts every document that its decoder accepts, with the same
value; a document that the decoder does not accept may be invalid or only uncommon, and the schema decides. So a decoder
may be stricter than its schema, never laxer; a schema with a rule that does not guarantee this gets no decoder.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from marshmallow import Schema, ValidationError, fields, validate

from common.errors import SchemaError

Field = fields.Field[Any]
Step = Callable[[Any], Any]
"""The conversion of a decoded value: returns the final value; raises ValidationError or ValueError."""
Check = Callable[[Any], object]
"""A check that does not change the value."""
Size = Callable[[Any], int]
"""A check that returns the size of a value."""

_PLAIN = vars(fields.Raw())
# Attributes of fields: those that do not affect validation, and those that are translated below.
_MEANINGLESS = {"name", "parent", "root", "metadata", "error_messages", "load_only", "dump_default", "unknown"}
_TRANSLATED = {"required", "validate", "validators", "inner", "nested", "_schema"}
_TOO_LARGE = "More than a document may have."
_WITHOUT_CODE = frozenset({"Meta", "opts", "error_messages", "_declared_fields", "_hooks", "_abc_impl"})
FastDecoder = Callable[[bytes], dict[str, Any] | None]
"""Decodes and validates JSON in one step: returns the schema's result for a document; None to leave it to the schema.
Thread-safe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """Properties of a schema's own fields and validators, guaranteed by its author and shown by tests.

    checked: by field class, the type of the JSON values that it keeps unchanged, and a factory for the check that also
        returns a value's size.
    most: the maximum size of all these values of a document together.
    parsers: by field class, the function that converts a string, or raises ValueError.
    same: by field class, the equivalent class of marshmallow.
    implied: validators that every string in valid UTF-8 satisfies, and code of schemas that does not change a document
        of known fields.
    """

    checked: Mapping[type[Field], tuple[Any, Callable[[], Size]]]
    most: int
    parsers: Mapping[type[Field], Callable[[str], Any]]
    same: Mapping[type[Field], type[Field]]
    implied: Collection[Callable[..., Any]]


def fast_decoder(schema: Schema, vouched: Vouched) -> FastDecoder:
    """Generate the decoder; raises SchemaError for a schema with an unsupported rule."""
    type_, made = _Generator(vouched).of_schema(schema, type(schema).__name__)
    finish = made or dict
    decode = msgspec.json.Decoder(type_).decode
    to_builtins = msgspec.to_builtins

    def decoder(body: bytes) -> dict[str, Any] | None:
        try:
            return finish(to_builtins(decode(body)))
        except (ValidationError, ValueError):  # msgspec's errors and UnicodeDecodeError are ValueErrors
            return None

    return decoder


class _Made(NamedTuple):
    """The result for a field: a type, which msgspec decodes and checks, and the remaining steps."""

    type: Any
    step: Step | None = None
    check: Check | None = None
    size: Size | None = None

    @property
    def all(self) -> Step | None:
        """Step and check, as one step."""
        return _then(self.step, self.check) if self.check else self.step


class _Generator:
    """Generates decoders' types and steps from schemas and fields."""

    def __init__(self, vouched: Vouched) -> None:
        self._vouched = vouched

    def of_schema(self, schema: Schema, where: str) -> tuple[Any, Step | None]:
        """A type, and the remaining step, if any. The decoder never accepts unknown fields, even if the schema does."""
        self._refuse_own_code(schema, where)
        made = {name: self._of_field(field, f"{where}.{name}") for name, field in schema.fields.items()}
        members: list[Any] = [
            (name, of.type) if schema.fields[name].required else (name, of.type | msgspec.UnsetType, msgspec.UNSET)
            for name, of in made.items()
        ]
        type_ = msgspec.defstruct(type(schema).__name__, members, kw_only=True, forbid_unknown_fields=True, gc=False)
        return type_, _finish(made, self._vouched.most)

    def _refuse_own_code(self, schema: Schema, where: str) -> None:
        """A schema may declare fields, messages and options; hooks and overridden methods could do anything."""
        for class_ in type(schema).__mro__[: -len(Schema.__mro__)]:
            for name, value in vars(class_).items():
                if name in _WITHOUT_CODE or value in self._vouched.implied:
                    continue
                if callable(value) or not name.startswith("__"):
                    raise SchemaError(where, f"code of its own, {name}")
        if schema.many or schema.partial:
            raise SchemaError(where, "the option many or partial")

    def _of_field(self, field: Field, where: str) -> _Made:
        _refuse_options(field, where)
        kind = self._vouched.same.get(type(field), type(field))
        if kind in self._vouched.checked:
            type_, make_check = self._vouched.checked[kind]
            if field.validators:
                raise SchemaError(where, "a rule beyond its type")
            return _Made(type_, size=make_check())
        if kind in self._vouched.parsers:
            return self._with_validators(field, _Made(str, self._vouched.parsers[kind]))
        if kind is fields.String:
            return self._with_validators(field, _Made(str), sized=True)
        if kind is fields.Nested and isinstance(field, fields.Nested):
            return self._with_validators(field, _Made(*self.of_schema(field.schema, where)))
        if kind is fields.List and isinstance(field, fields.List):
            inner = self._of_field(field.inner, f"{where}[]")
            if inner.size is not None:
                raise SchemaError(where, "values whose size counts")
            step = inner.all and _on_each(inner.all)
            return self._with_validators(field, _Made(list[inner.type], step), sized=True)  # type: ignore[name-defined]
        raise SchemaError(where, f"a {kind.__qualname__} field")

    def _with_validators(self, field: Field, made: _Made, *, sized: bool = False) -> _Made:
        """Lengths and choices become part of the type; other validators are called directly."""
        type_ = made.type
        called: list[Check] = []
        for validator in field.validators:
            if validator in self._vouched.implied:
                continue
            if sized and type(validator) is validate.Length:
                type_ = Annotated[type_, _length(validator)]
            elif type_ is str and type(validator) is validate.OneOf and isinstance(validator.choices, tuple):
                type_, sized = Literal[validator.choices], False
            else:
                called.append(validator)
        return _Made(type_, made.step, _all_of(called))


def _finish(made: Mapping[str, _Made], most: int) -> Step | None:
    """The step that does the remaining work for each field of a document."""
    checks = [(name, of.check) for name, of in made.items() if of.check and not of.step]
    steps = [(name, of.all) for name, of in made.items() if of.step and of.all]
    sizes = [(name, of.size) for name, of in made.items() if of.size]

    def finish(document: dict[str, Any]) -> dict[str, Any]:
        size = 0
        for name, size_of in sizes:
            if name in document:
                size += size_of(document[name])
        if size > most:
            raise ValidationError(_TOO_LARGE)
        for name, check in checks:
            if name in document:
                check(document[name])
        for name, step in steps:
            if name in document:
                document[name] = step(document[name])
        return document

    return finish if checks or steps or sizes else None


def _length(validator: validate.Length) -> msgspec.Meta:
    if validator.equal is not None:
        return msgspec.Meta(min_length=validator.equal, max_length=validator.equal)
    return msgspec.Meta(min_length=validator.min, max_length=validator.max)


def _all_of(checks: Sequence[Check]) -> Check | None:
    if len(checks) < 2:
        return checks[0] if checks else None

    def check_all(value: Any) -> None:
        for check in checks:
            check(value)

    return check_all


def _on_each(step: Step) -> Step:
    return lambda values: [step(value) for value in values]


def _then(step: Step | None, check: Check) -> Step:
    def checked(value: Any) -> Any:
        value = step(value) if step else value
        check(value)
        return value

    return checked


def _refuse_options(field: Field, where: str) -> None:
    """Refuse a field with options beyond its class and validators: defaults, hooks, other names, null."""
    for name, value in vars(field).items():
        if name not in _MEANINGLESS | _TRANSLATED and (value != _PLAIN[name] if name in _PLAIN else value):
            raise SchemaError(where, f"the option {name}")
