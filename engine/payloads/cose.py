"""COSE (RFC 9052): the one signed message that health passes use, COSE_Sign1, and its CBOR.

CBOR can nest without end, name one value in many places and make numbers of any size out of a few
bytes. So the shape of the bytes is walked before a library makes values of them.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

DEPTH_MAX: Final = 12  # containers inside one another; a pass has seven
ITEMS_MAX: Final = 2_000  # values in a message; a pass with one vaccination has about 60
TAGS: Final = frozenset({0, 1, 18, 61})  # dates as text and as number, COSE_Sign1, CWT

ALG: Final = 1
CRITICAL: Final = 2
KID: Final = 4

_SIGN1: Final = 18
_WRAPPERS: Final = (61, _SIGN1)
_INDEFINITE: Final = 31
_BREAK: Final = 0xFF


class Sign1(NamedTuple):
    """A message as it came; nothing of it is proven. protected and headers: decoded maps."""

    protected: dict[Any, Any]
    unprotected: dict[Any, Any]
    payload: bytes
    signature: bytes
    signed: bytes  # what the signature was made over (RFC 9052, section 4.4)

    def header(self, label: int) -> Any:
        """Of the protected ones, else of the others."""
        return self.protected[label] if label in self.protected else self.unprotected.get(label)


def decode(data: bytes) -> Any:
    """The one value that `data` is, maps as dict. Raises ValueError, whatever the bytes."""
    if not _is_modest(data):
        raise ValueError("not CBOR within the limits")
    # Loaded with the first pass that comes: commands that see none start without it.
    import cbor2

    try:
        return cbor2.loads(data, max_depth=2 * DEPTH_MAX, allow_duplicate_keys=False)
    except Exception as error:  # a library before hostile bytes: nothing it does may pass
        raise ValueError("not CBOR") from error


def open_sign1(data: bytes) -> Sign1:
    """Raises ValueError when `data` is not a COSE_Sign1 message, tagged or not."""
    import cbor2

    message = decode(data)
    while isinstance(message, cbor2.CBORTag) and message.tag in _WRAPPERS:
        message = message.value
    if not isinstance(message, list | tuple) or len(message) != 4:
        raise ValueError("not a COSE_Sign1 message")
    protected, unprotected, payload, signature = message
    if not all(isinstance(part, bytes) for part in (protected, payload, signature)):
        raise ValueError("not the parts of a COSE_Sign1 message")
    headers = decode(protected) if protected else {}
    if not _is_map(headers) or not _is_map(unprotected) or CRITICAL in headers:
        raise ValueError("headers that cannot be understood")
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    return Sign1(dict(headers), dict(unprotected), payload, signature, signed)


def _is_map(value: object) -> bool:
    return hasattr(value, "items")


def _is_modest(data: bytes) -> bool:
    """Whether `data` is one well-formed item (RFC 8949, appendix C) within our limits."""
    at, items = 0, 0
    open_items: list[int] = [1]  # what each container still holds; -1: until a break
    while open_items:
        left = open_items[-1]
        if left == 0:
            open_items.pop()
            continue
        if at >= len(data):
            return False
        first = data[at]
        at += 1
        if first == _BREAK:
            if left != -1:
                return False
            open_items.pop()
            continue
        items += 1
        if items > ITEMS_MAX or len(open_items) > DEPTH_MAX:
            return False
        if left > 0:
            open_items[-1] = left - 1
        major, short = first >> 5, first & 31
        value = short
        if 24 <= short <= 27:
            size = 1 << (short - 24)
            value = int.from_bytes(data[at : at + size], "big")
            at += size
        elif short > 27 and (short != _INDEFINITE or major in (0, 1, 6, 7)):
            return False
        if major in (2, 3):
            if short == _INDEFINITE:
                open_items.append(-1)
            else:
                at += value
        elif major in (4, 5):
            open_items.append(-1 if short == _INDEFINITE else value * (major - 3))
        elif major == 6:
            if value not in TAGS:
                return False
            open_items.append(1)
    return at == len(data)
