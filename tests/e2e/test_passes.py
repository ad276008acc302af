"""Health passes on a real engine with a folder of keys: as scans, in camera frames, in parts."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np
import segno
import simplejpeg

from engine.decoding.images import JPEG
from engine.scans.records import encode_scan
from engine.wire import frames as wire
from tests.e2e.rig import KEPT_FOR_EVER, EngineProcess, RawLink, enrolment, hello, run_chot, scans
from tests.reference.payload_vectors import FOLDER, load

VECTORS = {vector.id: vector.payload for vector in load()}


def keys_in(folder: Path) -> Path:
    folder.mkdir()
    (folder / "keys.json").write_bytes((FOLDER / "keys.json").read_bytes())
    return folder


def frame(seq: int, payload: bytes) -> wire.FrameImage:
    """A code of five pixels a module, held before a camera."""
    modules = np.array([list(row) for row in segno.make(payload, micro=False).matrix], bool)
    luma = np.kron(np.pad(~modules, 4, constant_values=True), np.ones((5, 5), bool))
    jpeg = simplejpeg.encode_jpeg(
        np.ascontiguousarray((luma * 255).astype(np.uint8)[..., None]), colorspace="GRAY"
    )
    return wire.FrameImage(
        seq=seq, channel=1, codec=JPEG, ts_ns=time.time_ns(), frame_no=seq, image=jpeg
    )


def test_passes_at_a_post(tmp_path: Path) -> None:
    settings = {**KEPT_FOR_EVER, "trust": keys_in(tmp_path / "trust")}
    shown = [
        ("dcc.vn-002", "accepted", None, "Đinh Th***"),
        ("dcc.vn-002", "seen", None, "Đinh Th***"),
        ("dcc.vn-011", "accepted", None, "Võ Qu***"),
        ("dcc.vn-013", "refused", "bad_signature", None),
        ("vdsnc-001", "accepted", None, "NGUYEN QU***"),
        ("shc-005", "refused", "incomplete", None),
        ("shc-006", "accepted", None, None),
        ("vn.bhyt-001", "accepted", None, "Phạm Xu***"),
    ]
    with EngineProcess(enrolment().copy_to(tmp_path), settings=settings) as engine:
        with RawLink(engine.port) as link:
            link.send(hello("vl-1a-1"))
            assert isinstance(link.next(), wire.Welcome)
            for seq, (name, *expected, mask) in enumerate(shown, 1):
                now_ms = time.time_ns() // 1_000_000
                link.send(scans(seq, encode_scan(now_ms, 1, VECTORS[name])))
                verdict = link.wait_for(wire.Result).verdict
                assert [verdict.verdict, verdict.reason] == expected, name
                assert mask is None or verdict.name == mask, name
            link.settled(0, len(shown))
            link.send(frame(1, VECTORS["dcc.vn-003"]))
            verdict = link.wait_for(wire.Result).verdict
            assert (verdict.verdict, verdict.name) == ("accepted", "Võ Th***")
            link.settled(1, 1)
        assert engine.metric("chot_passes", signature="valid") == 5
        assert engine.metric("chot_passes", signature="unknown_key") == 1
        assert engine.metric("chot_refused", reason="incomplete") == 1
        for word in ("Đinh", "DINH", "URN:UVCI", "2021-11-20"):
            assert word not in engine.log_text() + engine.metrics_text()
        assert engine.stop() == 0
    done = run_chot("verify", str(engine.data))
    assert isinstance(done, subprocess.CompletedProcess) and done.returncode == 0


def test_an_engine_does_not_start_on_keys_that_are_none(tmp_path: Path) -> None:
    folder = tmp_path / "trust"
    folder.mkdir()
    (folder / "list.json").write_text('["SECRET"]')
    data = enrolment().copy_to(tmp_path)
    done = run_chot("serve", "--data", str(data), "--set", f"trust={folder}")
    assert done.returncode == 2
    assert "list.json" in done.stderr and "SECRET" not in done.stderr
