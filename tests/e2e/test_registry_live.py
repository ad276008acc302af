"""What the registry says of a gateway holds for links that are open, not for the next ones only."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.clock import SystemClock
from engine.gateway.config import load_config, make_sources
from engine.wire import frames as wire
from engine.wire.address import parse_address
from tests.e2e.rig import (
    CLIPS,
    EngineProcess,
    GatewayProcess,
    Job,
    RawLink,
    enrolment,
    fresh_person,
    hello,
    job,
    lane_name,
    person_scan,
    run_chot,
    scans,
    until,
)
from tests.e2e.websocket_link import WebSocketLink
from tests.reference.certificates import Authority

# No heartbeat comes in a test, so that none can be what ends a link.
SETTINGS = {"heartbeat_s": 600, "retention_days": 36_500}


def change(engine: EngineProcess, folder: Path, header: str, *rows: str) -> None:
    """A table of gateways, imported by the owner's own tool."""
    table = folder / "gateways.csv"
    table.write_text("\n".join([header, *rows]))
    done = run_chot("registry", "import", str(table), "--data", str(engine.data))
    assert done.returncode == 0, done.stdout + done.stderr


class Stand:
    def __init__(self, made: Job, authority: Authority, folder: Path) -> None:
        self.engine = made.engine
        self.made = made
        self.folder = folder
        self._authority = authority

    def session(self, carrier: str, name: str, *, with_certificate: bool) -> RawLink:
        context: ssl.SSLContext | None = None
        if carrier in ("tls", "wss"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(self._authority.ca)
            context.set_alpn_protocols(["ckp/1"])
            if with_certificate:
                context.load_cert_chain(*self._authority.make(name))
        kind = WebSocketLink if carrier in ("ws", "wss") else RawLink
        port = self.engine.port
        if carrier != "tcp":
            port = parse_address(self.engine.listen[carrier]).port
        link = kind(port, context=context)
        fields = {"token": None} if with_certificate else {}
        assert isinstance(link.hello(name, **fields), wire.Welcome)
        link.send(scans(1, person_scan(fresh_person(), int(name[-1]))))
        link.settled(0, 1)
        return link


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("live")
    authority = Authority(folder / "ca")
    settings = SETTINGS | authority.engine_settings("tls", "ws", "wss")
    settings["tls_client_ca"] = authority.ca
    with job(folder / "job", settings=settings) as made:
        yield Stand(made, authority, folder)
        assert made.engine.stop() == 0
    assert "Traceback" not in made.engine.log_text()


def test_a_box_that_was_stolen_is_cut_off_at_once(stand: Stand) -> None:
    """Whatever it holds: a certificate, a token, links of several epochs."""
    stolen = [
        stand.session("tls", "vl-1a-1", with_certificate=True),
        stand.session("wss", "vl-1a-1", with_certificate=True),
        stand.session("tls", "vl-1a-1", with_certificate=False),
        stand.session("ws", "vl-1a-1", with_certificate=False),
        stand.session("tcp", "vl-1a-1", with_certificate=False),
    ]
    other = stand.session("tls", "vl-1a-2", with_certificate=True)
    header = "number,name,post,lanes,valid_from,valid_to"
    change(stand.engine, stand.folder, header, "1,vl-1a-1,VL-1A,1,2020-01-01,2021-01-01")
    assert [link.error_code() for link in stolen] == [2] * len(stolen)
    with RawLink(stand.engine.port) as again:
        answer = again.hello("vl-1a-1")
        assert isinstance(answer, wire.Error) and answer.code == 8
    other.send(scans(2, person_scan(fresh_person(), 2)))
    other.settled(0, 2)  # nobody else hears of it
    for link in (*stolen, other):
        link.socket.close()


def test_a_new_token_ends_what_the_old_one_opened(stand: Stand) -> None:
    old = stand.session("tls", "vl-1a-2", with_certificate=False)
    certified = stand.session("tls", "vl-1a-2", with_certificate=True)
    out = stand.folder / "again.toml"
    done = run_chot("registry", "enrol", "vl-1a-2", "--out", str(out), "--data",
                    str(stand.engine.data))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert old.error_code() == 2
    certified.send(scans(2, person_scan(fresh_person(), 2)))
    certified.settled(0, 2)
    old.socket.close()
    certified.socket.close()


def test_a_lane_that_is_taken_from_a_box_is_taken_from_its_link(stand: Stand) -> None:
    link = stand.session("tls", "vl-1a-3", with_certificate=True)
    change(stand.engine, stand.folder, "number,name,post,lanes", "3,vl-1a-3,VL-1A,2 3")
    assert link.error_code() == 10
    with stand.session("tls", "vl-1a-3", with_certificate=True) as back:
        back.send(hello("vl-1a-3"))
        assert back.error_code() == 7  # it stands: only a second HELLO ends it


def test_a_file_of_a_gateway_names_each_of_its_lanes(stand: Stand, tmp_path: Path) -> None:
    """As it is written it runs; without the signs every lane has a camera."""
    change(stand.engine, stand.folder, "number,name,post,lanes", "90,hl-all,HL-1A,1 2 3")
    out = tmp_path / "all.toml"
    done = run_chot("registry", "enrol", "hl-all", "--out", str(out), "--data",
                    str(stand.engine.data))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert load_config(out).lanes == [1]
    gateway = GatewayProcess(out, "--frames", str(CLIPS / "lane1.mjpeg"), "--fps", "200")
    assert gateway.wait() == 0 and gateway.stats["frames_sent"] > 0
    out.write_text(re.sub(r"(?m)^#(?! )", "", out.read_text()))
    full = load_config(out)
    assert full.lanes == [1, 2, 3] and len(make_sources(full, SystemClock())) == 3


def test_who_decodes_is_what_the_registry_says(tmp_path: Path) -> None:
    """A real box with a camera follows a change without a restart, both ways."""
    with job(tmp_path / "job", settings={**SETTINGS, "heartbeat_s": 1}) as made:
        engine = made.engine

        def came(kind: str) -> float:
            return engine.metric("chot_messages_received", type=kind)

        header, row = "number,name,post,lanes,decode", "1,vl-1a-1,VL-1A,1,"
        change(engine, tmp_path, header, row + "gateway")
        clip = tmp_path / "clip.mjpeg"
        clip.write_bytes((CLIPS / "lane1.mjpeg").read_bytes() * 100)
        config = enrolment().gateway_file(lane_name(1), tmp_path, engine.port)
        box = GatewayProcess(config, "--frames", str(clip), "--fps", "60")
        try:
            # Frames that came before the first WELCOME went to the engine.
            until(lambda: came("SCANS") >= 1)
            frames, scans_before = came("FRAME"), came("SCANS")
            until(lambda: came("SCANS") >= scans_before + 2)
            assert came("FRAME") == frames
            change(engine, tmp_path, header, row + "engine")
            until(lambda: engine.metric("chot_frames_decoded") > frames + 20)
            change(engine, tmp_path, header, row + "gateway")
            scans_before = came("SCANS")
            until(lambda: came("SCANS") >= scans_before + 2)
            box.process.terminate()
            assert box.wait() == 0
        finally:
            if box.process.poll() is None:
                box.kill()
        assert engine.stop() == 0
