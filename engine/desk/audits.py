"""Audits: who may do something about persons, and the record of it, before anything is done.

What the desks of lists, merges and reviews share; questions of the tracer have their own record
with the digest of what was shown (engine.desk.desk).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from engine.clock import Clock
from engine.desk.ask_bases import AskCase
from engine.errors import AccessDenied
from engine.identity.keys import KeyRing
from engine.registry import access
from engine.registry.access import AuditEntry, Grant
from engine.registry.registry import Registry

Append = Callable[[str, str, bytes, int], Awaitable[int]]


class Audits:
    """append: ControlLog.append. Used from the engine's event loop."""

    def __init__(self, registry: Registry, keyring: KeyRing, append: Append, clock: Clock) -> None:
        self._registry = registry
        self._keyring = keyring
        self._append = append
        self._clock = clock

    async def grant(
        self, ask: AskCase, question: access.Question, *, is_unmasked: bool = False
    ) -> tuple[Grant, str]:
        """Who asks, and the area that bounds them. Raises AccessDenied, TokenInvalid."""
        now_ms = self._clock.now_ms()
        grant = self._registry.grant_by_token(access.token_to_hash(ask.token), now_ms)
        try:
            area = access.check(
                grant, question, purpose=ask.purpose, case=ask.case, is_unmasked=is_unmasked,
                now_ms=now_ms,
            )  # fmt: skip
        except AccessDenied as error:
            # Who asked for what is not theirs is the auditor's business too.
            if grant is not None:
                await self.note(grant, ask, question, "refused", outcome=error.code)
            raise
        assert grant is not None
        return grant, area

    async def note(
        self,
        grant: Grant,
        ask: AskCase,
        question: access.Question,
        action: str,
        *,
        persons: Iterable[bytes] = (),
        rows: int = 0,
        parameters: dict[str, str | int] | None = None,
        is_unmasked: bool = False,
        outcome: str = "answered",
    ) -> int:
        """Number of the record; durable when it returns. persons: keys asked about and shown."""
        everybody = b"".join(dict.fromkeys(persons))
        digest = access.persons_to_digest(everybody)
        aad = access.digest_to_aad(digest)
        entry = AuditEntry(
            who=grant.name,
            role=grant.role,
            unit=grant.unit,
            # Typed by the asker, and kept only if they are what they should be.
            purpose=ask.purpose if ask.purpose in frozenset(access.Purpose) else "",
            case=ask.case if access.is_case(ask.case) else "",
            question=question,
            parameters={"action": action, **(parameters or {})},
            rows=rows,
            persons=len(everybody) // 16,
            digest=digest,
            sealed_persons=self._keyring.seal_audit(everybody, aad),
            is_unmasked=is_unmasked,
            outcome=outcome,
        )
        body = access.entry_to_body(entry)
        return await self._append(access.AUDIT_KIND, grant.name, body, self._clock.now_ms())
