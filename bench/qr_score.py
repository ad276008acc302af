"""What a reader found, held against the truth: hits, texts, passages, and what is not there."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.decoders import Reading
from bench.qr_sets import Shot, Text


@dataclass(slots=True)
class Score:
    """Of one reader over a row of frames; lists run along the frames.

    hit: an expected text was read; None where none is known. texts: the same of every expected
    one. wrong: contents that the frame does not hold. stale: contents of another passage of the
    clip, or any while no code is in the frame; part of wrong. first: passage to the number of
    frames from the first that shows it whole to the first that was read, None where none was.
    """

    hit: list[bool | None] = field(default_factory=list)
    texts: list[list[bool]] = field(default_factory=list)
    wrong: list[list[bytes]] = field(default_factory=list)
    stale: list[bool] = field(default_factory=list)
    first: dict[str, int | None] = field(default_factory=dict)


@dataclass(slots=True)
class Passage:
    """A code shown once: frames that show any part of it, the first that shows it whole."""

    name: str
    frames: list[int]
    whole_from: int
    text: Text


def passages_of(shots: list[Shot]) -> list[Passage]:
    """Passages of which the text is known, in order."""
    frames: dict[str, list[int]] = {}
    for n, shot in enumerate(shots):
        for name in shot.passages:
            frames.setdefault(name, []).append(n)
    found = []
    for name, shown in frames.items():
        for n in shown:
            known, order = shots[n].known or [], shots[n].passages
            # The codes that are whole come first.
            if order.index(name) < len(known):
                found.append(Passage(name, shown, n, known[order.index(name)]))
                break
    return found


def score(shots: list[Shot], reading: Reading) -> Score:
    """A reader held against the truth of the frames of one clip, or of unrelated stills."""
    made = Score()
    passages = passages_of(shots)
    for shot, found in zip(shots, reading.found, strict=True):
        known = shot.known or []
        got = [any(content in text for content in found) for text in known]
        made.texts.append(got)
        made.hit.append(any(got) if known else None)
        allowed = [*known, *shot.cut]
        # A frame of unknown contents that belongs to no known passage says nothing about anybody.
        is_judged = shot.known is not None or bool(shot.cut)
        strange = [c for c in found if not any(c in text for text in allowed)]
        made.wrong.append(strange if is_judged else [])
        others = [p.text for p in passages if p.name not in shot.passages]
        is_other = any(c in text for c in strange for text in others)
        made.stale.append(bool(found) if shot.is_empty and passages else is_other)
    for passage in passages:
        read = next(
            (n for n in passage.frames if any(c in passage.text for c in reading.found[n])), None
        )
        made.first[passage.name] = None if read is None else max(0, read - passage.whole_from)
    return made
