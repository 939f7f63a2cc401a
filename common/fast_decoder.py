"""The quick way through the common case: msgspec decoders, generated from marshmallow schemas.

A schema stays the one source of truth. What its decoder takes, the schema takes too, with the same value; what the
decoder does not take may be wrong or only uncommon: that is for the schema to say. So a decoder may be stricter than
its schema, never laxer, and a schema with a rule of which that is not certain has no decoder.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from marshmallow import Schema, ValidationError, fields, validate

from common.errors import SchemaError

Field = fields.Field[Any]
Step = Callable[[Any], Any]
"""What is left to do with a decoded value: returns the value to keep; raises ValidationError or ValueError."""

_PLAIN = vars(fields.Raw())
# Attributes of fields: those that decide nothing about what is taken here, and those that are translated below.
_MEANINGLESS = {"name", "parent", "root", "metadata", "error_messages", "load_only", "dump_default", "unknown"}
_TRANSLATED = {"required", "validate", "validators", "inner", "nested", "_schema"}
_WITHOUT_CODE = frozenset({"Meta", "opts", "error_messages", "_declared_fields", "_hooks", "_abc_impl"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """What the author of a schema says of his own fields and validators; his tests have to show it.

    checked: by class of field, the type of the JSON values that it takes as they are, once what is made here has
        checked one.
    parsers: by class of field, what makes its value of a text, or raises ValueError.
    same: by class of field, the class of marshmallow's that takes the same, with the same value.
    implied: validators that no text in valid UTF-8 breaks, and code of schemas that changes nothing about a document
        of known fields.
    """

    checked: Mapping[type[Field], tuple[Any, Callable[[], Step]]]
    parsers: Mapping[type[Field], Callable[[str], Any]]
    same: Mapping[type[Field], type[Field]]
    implied: Collection[Callable[..., Any]]


class FastDecoder:
    """Decodes and validates JSON at once. Threads may share it."""

    def __init__(self, schema: Schema, vouched: Vouched) -> None:
        """Raises SchemaError for a schema that has a rule not known here."""
        type_, finish = _Generator(vouched).of_schema(schema, type(schema).__name__)
        self._finish = finish or dict
        self._decode = msgspec.json.Decoder(type_).decode

    def __call__(self, body: bytes | msgspec.Raw) -> dict[str, Any] | None:
        """What the schema makes of a document; None if that is for the schema to say."""
        try:
            document: dict[str, Any] = self._finish(msgspec.to_builtins(self._decode(body)))
        except (ValidationError, ValueError):  # msgspec's errors and UnicodeDecodeError are ValueErrors
            return None
        return document


class _Generator:
    """Makes of each schema and field a type, which msgspec decodes and checks, and a step to do after that, if any."""

    def __init__(self, vouched: Vouched) -> None:
        self._vouched = vouched

    def of_schema(self, schema: Schema, where: str) -> tuple[Any, Step | None]:
        """An unknown field is not taken, whatever the schema does with it."""
        self._refuse_own_code(schema, where)
        members: list[Any] = []
        steps: dict[str, Step] = {}
        for name, field in schema.fields.items():
            type_, step = self._of_field(field, f"{where}.{name}")
            members.append((name, type_) if field.required else (name, type_ | msgspec.UnsetType, msgspec.UNSET))
            if step is not None:
                steps[name] = step

        def finish(document: dict[str, Any]) -> dict[str, Any]:
            for name, step in steps.items():
                if name in document:
                    document[name] = step(document[name])
            return document

        type_ = msgspec.defstruct(type(schema).__name__, members, kw_only=True, forbid_unknown_fields=True)
        return type_, finish if steps else None

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

    def _of_field(self, field: Field, where: str) -> tuple[Any, Step | None]:
        _refuse_options(field, where)
        kind = self._kind_of(field)
        type_: Any
        step: Step | None = None
        sized = False
        if kind in self._vouched.checked:
            type_, make_check = self._vouched.checked[kind]
            step = make_check()
        elif kind in self._vouched.parsers:
            type_, step = str, self._vouched.parsers[kind]
        elif kind is fields.String:
            type_, sized = str, True
        elif kind is fields.Nested and isinstance(field, fields.Nested):
            type_, step = self.of_schema(field.schema, where)
        elif kind is fields.List and isinstance(field, fields.List):
            inner, of_each = self._of_field(field.inner, f"{where}[]")
            type_, step, sized = list[inner], of_each and _on_each(of_each), True  # type: ignore[valid-type]
        else:
            raise SchemaError(where, f"a {kind.__qualname__} field")
        return self._with_validators(field, type_, step, sized=sized)

    def _kind_of(self, field: Field) -> type[Field]:
        return self._vouched.same.get(type(field), type(field))

    def _with_validators(self, field: Field, type_: Any, step: Step | None, *, sized: bool) -> tuple[Any, Step | None]:
        """Lengths and choices become part of the type; a validator that msgspec has no word for is called itself."""
        called: list[Callable[[Any], Any]] = []
        for validator in field.validators:
            if validator in self._vouched.implied:
                continue
            if sized and type(validator) is validate.Length:
                type_ = Annotated[type_, _length(validator)]
            elif type_ is str and type(validator) is validate.OneOf and isinstance(validator.choices, tuple):
                type_, sized = Literal[validator.choices], False
            else:
                called.append(validator)
        return type_, _then(step, called) if called else step


def _length(validator: validate.Length) -> msgspec.Meta:
    if validator.equal is not None:
        return msgspec.Meta(min_length=validator.equal, max_length=validator.equal)
    return msgspec.Meta(min_length=validator.min, max_length=validator.max)


def _on_each(step: Step) -> Step:
    return lambda values: [step(value) for value in values]


def _then(step: Step | None, validators: list[Callable[[Any], Any]]) -> Step:
    def validated(value: Any) -> Any:
        value = step(value) if step else value
        for validator in validators:
            validator(value)
        return value

    return validated


def _refuse_options(field: Field, where: str) -> None:
    """Defaults, hooks, other names, null: whatever makes a field more than its class and its validators."""
    for name, value in vars(field).items():
        if name not in _MEANINGLESS | _TRANSLATED and (value != _PLAIN[name] if name in _PLAIN else value):
            raise SchemaError(where, f"the option {name}")
