"""The error tree: one root, a stable `code` per leaf, the caller's fault apart from ours.

The same code stands on the wire, in the API, in metrics and in docs/errors.md. A code in an image
that cannot be read, or a payload that is refused, is a value and not an exception.
"""

from __future__ import annotations

from typing import ClassVar


class EngineError(Exception):
    """Root of everything the engine raises on purpose.

    code: stable, dotted, lower case; documented in docs/errors.md.
    status: hint for an HTTP answer.
    wire: CKP/1 error number (docs/protocol.md), 0 where the wire never carries it.
    hint: what the reader can do about it, may be empty.
    """

    code: ClassVar[str] = "engine"
    status: ClassVar[int] = 500
    wire: ClassVar[int] = 0

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InputError(EngineError):
    """The caller's fault: what came in cannot be taken."""

    code = "input"
    status = 400


class ServiceError(EngineError):
    """Our fault or the machine's: the same request may succeed later or elsewhere."""

    code = "service"
    status = 503


# ---- wire -------------------------------------------------------------------------------------


class WireMalformed(InputError):
    """Bytes that are not CKP/1."""

    code = "wire.malformed"
    wire = 7


class WireVersion(InputError):
    code = "wire.version"
    wire = 1


class WireAuth(InputError):
    code = "wire.auth"
    status = 401
    wire = 2


class WireReplaced(InputError):
    code = "wire.replaced"
    status = 409
    wire = 3


class WireGap(InputError):
    code = "wire.gap"
    wire = 4


class WireTooLarge(InputError):
    code = "wire.too_large"
    status = 413
    wire = 5


class WireOverCredit(InputError):
    code = "wire.over_credit"
    status = 429
    wire = 6


class WireUnknownGateway(InputError):
    code = "wire.unknown_gateway"
    status = 403
    wire = 8


class WireEpochUsed(InputError):
    """The spool's next numbers were received before: it is an old copy of another spool."""

    code = "wire.epoch_used"
    status = 409
    wire = 9


class WireDraining(ServiceError):
    code = "wire.draining"
    wire = 10


class WireStoreFull(ServiceError):
    code = "wire.store_full"
    status = 507
    wire = 11


class WireClock(InputError):
    code = "wire.clock"
    wire = 12


class KeyReused(InputError):
    """An idempotency key that another body was taken under."""

    code = "ingest.key_reused"
    status = 409


class WireTls(InputError):
    """No TLS 1.3 came about, the certificate does not hold, or another protocol was meant."""

    code = "wire.tls"


class LineInvalid(InputError):
    """A line of a gateway's record file that is no record; says where, never what stood there."""

    code = "source.line"


# ---- images -----------------------------------------------------------------------------------


class ImageInvalid(InputError):
    """Not a readable JPEG, PNG or luma plane."""

    code = "image.invalid"
    status = 415


class ImageTooLarge(InputError):
    """More pixels or bytes than the settings allow; refused before decompression."""

    code = "image.too_large"
    status = 413


# ---- storage ----------------------------------------------------------------------------------


class StorageError(ServiceError):
    code = "storage"


class StorageFull(StorageError):
    code = "storage.full"
    status = 507
    wire = 11


class StorageUnavailable(StorageError):
    code = "storage.unavailable"
    wire = 11


class JournalCorrupt(StorageError):
    code = "storage.corrupt"
    status = 500


class StoreVersion(StorageError):
    """The store was written by another schema or LMDB engine."""

    code = "storage.version"
    status = 500


class StoreLocked(StorageError):
    """Another process holds this store."""

    code = "storage.locked"
    status = 409


class ForgetListInvalid(StorageError):
    """The file beside the keys that says what was forgotten cannot be read as one."""

    code = "storage.forget_list"
    status = 500


class BackupInvalid(StorageError):
    """A folder that is no whole backup, or whose files are not those that were written."""

    code = "storage.backup"
    status = 500


# ---- keys and access ---------------------------------------------------------------------------


class KeyMissing(ServiceError):
    """A key file is missing, unreadable or has unsound permissions."""

    code = "keys.missing"
    status = 500


class KeyDestroyed(InputError):
    """The day's key was destroyed: nothing of that day can be read or written any more."""

    code = "keys.destroyed"
    status = 410


class SealBroken(InputError):
    """Sealed bytes do not open: wrong key or changed on the way."""

    code = "keys.seal_broken"


class DetailsInvalid(InputError):
    """Bytes that are not a person's details: another version wrote them, or they are damaged."""

    code = "people.details_invalid"


class AccessDenied(InputError):
    code = "access.denied"
    status = 403


class TokenInvalid(InputError):
    code = "access.token"
    status = 401


# ---- registry ----------------------------------------------------------------------------------


class RegistryInvalid(InputError):
    """An import with faults; nothing of it was taken. `rows` says which line and why."""

    code = "registry.invalid"
    status = 422

    def __init__(self, message: str, *, rows: list[str] | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rows = rows or []


class NotFound(InputError):
    code = "registry.not_found"
    status = 404


# ---- questions ---------------------------------------------------------------------------------


class QuestionInvalid(InputError):
    code = "question.invalid"
    status = 422


class GatewayNotRunning(ServiceError):
    """Nobody answers on a spool's status socket."""

    code = "gateway.not_running"


class EngineUnreachable(ServiceError):
    """The engine does not answer on its socket or address."""

    code = "engine.unreachable"


# ---- the HTTP API ------------------------------------------------------------------------------


class RouteUnknown(InputError):
    """No such address."""

    code = "http.not_found"
    status = 404


class MethodWrong(InputError):
    """The address exists and takes another method."""

    code = "http.method"
    status = 405


class BodyInvalid(InputError):
    """A request that is not HTTP, a body that is not JSON, or not the JSON the address takes."""

    code = "http.body"


class BodyTooLarge(InputError):
    code = "http.too_large"
    status = 413


class RequestSlow(InputError):
    """The body did not come in time."""

    code = "http.timeout"
    status = 408


class SettingInvalid(InputError):
    code = "settings.invalid"


def leaves() -> dict[str, type[EngineError]]:
    """Every class by its code, for docs and for mapping codes back to classes.

    Raises ValueError when two classes share a code.
    """
    found: dict[str, type[EngineError]] = {}
    queue: list[type[EngineError]] = [EngineError]
    while queue:
        cls = queue.pop(0)
        if found.setdefault(cls.code, cls) is not cls:
            raise ValueError(f"code {cls.code!r} is used twice")
        queue.extend(cls.__subclasses__())
    return found
