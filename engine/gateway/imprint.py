"""The imprint: what ties a file of state to the place where it was last written.

A file that was restored from a copy looks like the original from inside. What a copy cannot bring
along is where it lies: the boot of the machine, the inode, and the kernel's time of the last write
(ctime), which no tool can set. A file whose imprint holds is continued; of any other nobody knows
what was done with the original meanwhile.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from engine.clock import SystemClock

WRITE_MAX_MS: Final = 5_000  # from the imprint in a commit to the commit's last write
_COARSE_MS: Final = 20  # the kernel stamps files with a clock of coarse ticks
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_clock = SystemClock()


class Imprint(msgspec.Struct, frozen=True):
    """boot: random name of the machine's run since it was switched on, "" when there is none."""

    boot: str
    device: int
    inode: int
    written_ms: int

    def renewed(self) -> Imprint:
        """For a write that begins now."""
        return msgspec.structs.replace(self, written_ms=_clock.now_ms())

    def difference(self, found: Imprint) -> str | None:
        """Why the file that was found is not surely the one this was written to; None: it is."""
        if not self.boot or self.boot != found.boot:
            return "the machine was started anew, or is another one"
        if (self.device, self.inode) != (found.device, found.inode):
            return "it is another file"
        if not -_COARSE_MS <= found.written_ms - self.written_ms <= WRITE_MAX_MS:
            return "it was written after its last commit"
        return None


def take_imprint(path: Path) -> Imprint:
    """The imprint of a file as it lies there. Raises OSError."""
    try:
        boot = _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    status = path.stat()
    return Imprint(boot, status.st_dev, status.st_ino, status.st_ctime_ns // 1_000_000)
