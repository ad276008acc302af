"""A slow, obvious check of a value against the part of JSON Schema that the API's structs use."""

from __future__ import annotations

from typing import Any

KNOWN = {
    *("$ref", "anyOf", "type", "properties", "required", "additionalProperties", "items"),
    *("prefixItems", "enum", "const", "title", "description", "default", "minimum", "maximum"),
    *("minLength", "maxLength", "minItems", "maxItems", "pattern", "format"),
}
TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


def resolve(root: dict[str, Any], ref: str) -> dict[str, Any]:
    """What "#/a/b" names. Raises KeyError."""
    found: Any = root
    for name in ref.removeprefix("#/").split("/"):
        found = found[name]
    assert isinstance(found, dict)
    return found


def faults(root: dict[str, Any], schema: dict[str, Any], value: Any, at: str = "$") -> list[str]:
    """Where and how the value is not what the schema says."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        return faults(root, resolve(root, schema["$ref"]), value, at)
    if "anyOf" in schema:
        tries = [faults(root, option, value, at) for option in schema["anyOf"]]
        return [] if [] in tries else [f"{at}: none of {len(tries)} options"]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{at}: not in {schema['enum']}"]
    kind = schema.get("type")
    if kind is None:
        return []
    is_bool = isinstance(value, bool) and kind != "boolean"
    if is_bool or not isinstance(value, TYPES[kind]):
        return [f"{at}: {type(value).__name__} is no {kind}"]
    found: list[str] = []
    if kind == "object":
        properties = schema.get("properties", {})
        found += [f"{at}: no {name}" for name in schema.get("required", []) if name not in value]
        extra = schema.get("additionalProperties", not properties)
        for name, item in value.items():
            if name in properties:
                found += faults(root, properties[name], item, f"{at}.{name}")
            elif isinstance(extra, dict):
                found += faults(root, extra, item, f"{at}.{name}")
            elif not extra:
                found.append(f"{at}: {name} is not described")
    if kind == "array" and "items" in schema and isinstance(schema["items"], dict):
        for i, item in enumerate(value):
            found += faults(root, schema["items"], item, f"{at}[{i}]")
    return found
