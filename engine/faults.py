"""Named steps at which a test can end a process as kill -9 does.

`CHOT_KILL_AT=spool.committed:3` in the environment kills the process the third time it comes to
that step. Without it a step is a call of an empty function, some 40 ns, once a message. A kill from
outside cannot choose its moment: between a commit and the answer that follows it lie microseconds,
and whether a protocol holds is decided there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

GATEWAY_STEPS: Final = (
    "spool.written",  # numbered and sealed, not committed
    "spool.committed",  # on the disk, not sent
    "spool.turned",  # another epoch is in use, the old one waits
    "spool.acked",  # a receipt is on the spool's disk
    "uplink.hello",  # HELLO is out
    "uplink.welcome",  # WELCOME is read and nothing done
    "uplink.sent",  # a record is on its way
    "uplink.receipt",  # ACK is read and nothing done
)
ENGINE_STEPS: Final = (
    "streams.opened",  # a link has its stream, WELCOME is not out
    "ingest.judged",  # RESULT is out, nothing at the journal yet
    "ingest.committed",  # the journal has it, no receipt yet
    "ingest.acked",  # the receipt is out
    "segments.written",  # the file of a day is written, not under its name
    "segments.renamed",  # it has its name, the manifest does not know it
    "segments.committed",  # the manifest names it, the index does not ask it yet
    "segments.replaced",  # the index asks it, what it replaces is still there
    "segments.dropped",  # that is gone
    "segments.forgotten",  # the manifest has forgotten days, their files and keys are there
    "generation.made",  # the next file of the log has its meta record, under a name of no meaning
    "generation.filled",  # and zeros ahead
    "generation.named",  # has its name, which may not be durable
    "generation.ready",  # waits to be begun
    "generation.begun",  # its header and first groups are durable, nobody knows
    "generation.released",  # the log says that older ones need not be there; they still are
    "generation.unlinked",  # one of them is not
    "backup.scans",  # the scan log is copied, the control log is not
    "backup.copied",  # both are, there is no manifest
    "restore.copied",  # logs and keys lie in a draft
    "restore.erased",  # who was erased since the backup is out of it
    "restore.applied",  # forgotten days are as well, the draft has not its name yet
    "retention.noted",  # days stand on the forget list, their keys are there
    "journal.destroyed",  # keys of days are gone, their groups are not empty
    "journal.emptied",  # some groups of these days are
    "retention.emptied",  # all of them are, the index still has them
    "retention.records",  # control records that are over are named, they have their bodies still
    "erasure.listed",  # a person stands on the forget list, nothing else is done
    "erasure.begun",  # the control log knows
    "journal.amended",  # some groups have lost the person's rows
    "erasure.amended",  # all groups have
    "erasure.records",  # records that name the person have lost their bodies
    "erasure.done",  # the last record is durable, nobody was told
)


def _nothing(step: str) -> None:
    pass


def killer(text: str) -> Callable[[str], None]:
    """Kills this process at "STEP:COUNT". Raises ValueError for no such step."""
    name, _, count = text.partition(":")
    left = int(count or 1)
    if name not in GATEWAY_STEPS + ENGINE_STEPS or left < 1:
        raise ValueError(f"CHOT_KILL_AT: no step {text}")

    def reach(step: str) -> None:
        nonlocal left
        if step == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return reach


_text: Final = os.environ.get("CHOT_KILL_AT")
reach: Final[Callable[[str], None]] = killer(_text) if _text else _nothing
