"""The speed of light of a machine: what bounds each stage of a frame and of a scan, measured.

A small library in C (floors.c) is built on the spot, as that of bench.gauge: serial looks into a
table, as many as a frame has Huffman symbols; a plane read once; system calls. The rest is
measured from here: hashes and ciphers by OpenSSL over large pieces, a message through a socket
pair. What a sync costs is measured by `commit`, beside our own commits.
"""

from __future__ import annotations

import ctypes
import hashlib
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.gauge import GaugeError

SOURCE: Final = Path(__file__).with_name("floors.c")
TIMES: Final = 9
MARKERS_ALONE: Final = (0xD8, 0x01, *range(0xD0, 0xD8))  # of a JPEG: without a length
ZIGZAG_END: Final = 63


def best_ns(work: Callable[[], object], times: int = TIMES) -> int:
    """The least CPU time of the thread, nanoseconds."""
    spent = []
    for _ in range(times):
        begun_ns = time.thread_time_ns()
        work()
        spent.append(time.thread_time_ns() - begun_ns)
    return min(spent)


class Floors:
    """folder: where the library is built. Raises GaugeError."""

    def __init__(self, folder: Path) -> None:
        path = folder / "floors.so"
        words = [*(sysconfig.get_config_var("CC") or "cc").split(), "-O3", "-fPIC", "-shared"]
        try:
            done = subprocess.run(
                [*words, str(SOURCE), "-o", str(path)], capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise GaugeError(f"no C compiler: {error}") from error
        if done.returncode:
            raise GaugeError(f"floors.c does not build: {done.stderr.strip()[:500]}")
        self._library = ctypes.CDLL(str(path))

    def symbol_ns(self, count: int = 1 << 20) -> float:
        """One Huffman symbol behind another."""
        lengths = bytes(3 + n % 5 for n in range(256))
        seed, times = ctypes.c_uint64(0x9E3779B97F4A7C15), ctypes.c_size_t(count)
        return best_ns(lambda: self._library.floor_symbols(lengths, seed, times)) / count

    def read_ns(self, size: int) -> float:
        """A plane of so many bytes, read once from where the one before left it."""
        planes = [np.full(size, n, np.uint8) for n in range(8)]
        words = ctypes.c_size_t(size // 8)

        def work() -> None:
            for plane in planes:
                self._library.floor_read(ctypes.c_void_p(plane.ctypes.data), words)

        return best_ns(work) / len(planes)

    def write_ns(self, size: int) -> float:
        """A plane of so many bytes, written once."""
        plane = np.zeros(size, np.uint8)
        return float(best_ns(lambda: plane.fill(7)))

    def miss_ns(self, size: int = 1 << 26, count: int = 200_000) -> float:
        """A look into memory that no cache has, each after the one before."""
        turns = np.random.Generator(np.random.PCG64(1)).permutation(size // 64) * 8
        chain = np.zeros(size // 8, np.uint64)
        chain[turns] = np.roll(turns, -1).astype(np.uint64)
        start, times = ctypes.c_void_p(chain.ctypes.data), ctypes.c_size_t(count)
        return best_ns(lambda: self._library.floor_misses(start, times), 3) / count

    def system_call_ns(self, count: int = 10_000) -> float:
        return best_ns(lambda: self._library.floor_calls(ctypes.c_size_t(count))) / count

    def message_ns(self, size: int, times: int = 200) -> float:
        """A message written into one end of a socket pair and read from the other."""
        one, other = socket.socketpair()
        data = bytes(size)

        def work() -> None:
            for _ in range(times):
                one.sendall(data)
                left = size
                while left:
                    left -= len(other.recv(left))

        with one, other:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, max(1 << 16, 4 * size))
            return best_ns(work) / times


def sha256_block_ns(size: int = 1 << 20) -> float:
    """64 bytes of SHA-256."""
    data = bytes(size)
    return best_ns(lambda: hashlib.sha256(data).digest()) / (size / 64)


def seal_byte_ns(size: int = 1 << 20) -> float:
    """A byte of AES-256-GCM."""
    cipher, data = AESGCM(bytes(32)), bytes(size)
    return best_ns(lambda: cipher.encrypt(bytes(12), data, None)) / size


# ---- Huffman symbols of a frame -----------------------------------------------------------------


def count_symbols(data: bytes) -> int:
    """Huffman symbols in the scan of a baseline JPEG; slow, some tenths of a second a frame.

    Raises ValueError for what is no whole baseline JPEG of one scan.
    """
    tables: dict[int, dict[tuple[int, int], int]] = {}
    parts: dict[int, int] = {}  # blocks an MCU by component
    size, restart, at = (0, 0), 0, 2
    while True:
        if data[at] != 0xFF:
            raise ValueError("no marker where one was expected")
        kind = data[at + 1]
        if kind in MARKERS_ALONE or kind == 0xFF:
            at += 1 if kind == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body, at = data[at + 4 : at + 2 + length], at + 2 + length
        if kind == 0xC4:
            tables |= dict(_tables(body))
        elif kind == 0xC0:
            rows, columns, count = (
                *(int.from_bytes(body[i : i + 2], "big") for i in (1, 3)),
                body[5],
            )
            size = rows, columns
            for i in range(6, 6 + 3 * count, 3):
                parts[body[i]] = body[i + 1]
        elif kind in (0xC1, 0xC2, 0xC3):
            raise ValueError("no baseline JPEG")
        elif kind == 0xDD:
            restart = int.from_bytes(body, "big")
        elif kind == 0xDA:
            return _in_scan(data[at:], body, tables, parts, size, restart)


def _tables(body: bytes) -> Iterator[tuple[int, dict[tuple[int, int], int]]]:
    """Symbol by (length, code), by class and number."""
    while body:
        counts, at, code = body[1:17], 17, 0
        table: dict[tuple[int, int], int] = {}
        for length, count in enumerate(counts, 1):
            for _ in range(count):
                table[length, code] = body[at]
                code, at = code + 1, at + 1
            code <<= 1
        yield body[0], table
        body = body[at:]


def _in_scan(
    scan: bytes,
    head: bytes,
    tables: dict[int, dict[tuple[int, int], int]],
    parts: dict[int, int],
    size: tuple[int, int],
    restart: int,
) -> int:
    chosen = [(head[i], head[i + 1]) for i in range(1, 1 + 2 * head[0], 2)]
    if set(parts) != {name for name, _ in chosen}:
        raise ValueError("more scans than one")
    tall, wide = (max(f >> s & 15 for f in parts.values()) for s in (0, 4))
    mcus = -(-size[0] // (8 * tall)) * -(-size[1] // (8 * wide))
    blocks = []
    for name, table in chosen:
        pair = tables[table >> 4], tables[0x10 | table & 15]
        blocks += [pair] * ((parts[name] >> 4) * (parts[name] & 15))
    bits, found = _Bits(scan), 0
    for mcu in range(mcus):
        if restart and mcu and not mcu % restart:
            bits.restart()
        for dc, ac in blocks:
            bits.skip(bits.symbol(dc))
            found, k = found + 1, 0
            while k < ZIGZAG_END:
                symbol = bits.symbol(ac)
                found += 1
                if not symbol & 15 and symbol != 0xF0:
                    break
                k += (symbol >> 4) + 1
                bits.skip(symbol & 15)
    return found


class _Bits:
    """Bits of a scan, stuffed zeros left out."""

    def __init__(self, scan: bytes) -> None:
        self._scan, self._at = scan, 0
        self._value = self._count = 0

    def _more(self) -> None:
        byte = self._scan[self._at]
        self._at += 2 if byte == 0xFF and self._scan[self._at + 1] == 0 else 1
        self._value, self._count = self._value << 8 | byte, self._count + 8

    def symbol(self, table: dict[tuple[int, int], int]) -> int:
        length = code = 0
        while (length, code) not in table:
            if length == 16:
                raise ValueError("no such code")
            if not self._count:
                self._more()
            self._count -= 1
            length, code = length + 1, code << 1 | self._value >> self._count & 1
            self._value &= (1 << self._count) - 1
        return table[length, code]

    def skip(self, bits: int) -> None:
        while self._count < bits:
            self._more()
        self._count -= bits
        self._value &= (1 << self._count) - 1

    def restart(self) -> None:
        self._value = self._count = 0
        if self._scan[self._at] == 0xFF and 0xD0 <= self._scan[self._at + 1] <= 0xD7:
            self._at += 2


def gather(folder: Path, plane: int, message: int) -> dict[str, Any]:
    """Every floor of one run, nanoseconds. plane and message: bytes. Raises GaugeError."""
    floors = Floors(folder)
    return {
        "symbol_ns": floors.symbol_ns(),
        "plane_read_ns": floors.read_ns(plane),
        "plane_write_ns": floors.write_ns(plane),
        "miss_ns": floors.miss_ns(),
        "system_call_ns": floors.system_call_ns(),
        "message_ns": floors.message_ns(message),
        "sha256_block_ns": sha256_block_ns(),
        "seal_byte_ns": seal_byte_ns(),
    }
