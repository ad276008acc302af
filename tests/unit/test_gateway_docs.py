"""docs/gateway.md is true: every example loads, every kind and field of it is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from engine.clock import SystemClock
from engine.gateway import config as gateway_config
from engine.gateway.config import AnySource, GatewayConfig, load_config, make_sources
from engine.gateway.gear.thermal import Fields

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/gateway.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, re.M | re.S)
HEAD = f'name = "g"\ntoken = "t"\ningest_public = "{"0" * 64}"\nspool = "s"\n'


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_is_a_gateway(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    path = tmp_path / "box.toml"
    path.write_text(text if text.startswith("name") else HEAD + text, encoding="utf-8")
    config = load_config(path)
    sources = make_sources(config, SystemClock())
    assert [source.kind for source in sources] == [
        msgspec.to_builtins(source)["kind"] for source in config.sources
    ]


def test_every_kind_has_an_example_and_every_field_is_named() -> None:
    shown = "\n".join(EXAMPLES)
    for kind in get_args(AnySource):
        tag = kind.__struct_config__.tag
        assert f'kind = "{tag}"' in shown, tag
        for field in kind.__struct_fields__:
            assert re.search(rf"\b{field}\b", PAGE), f"{tag}: {field}"
    for field in Fields.__struct_fields__:
        assert f"`fields.{field}`" in PAGE


def test_defaults_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `(?:fields\.)?(\w+)` \| `\"?([^`\"]+)\"?` \|", PAGE, re.M))
    camera = msgspec.structs.fields(gateway_config.CameraConfig)
    thermal = msgspec.structs.fields(gateway_config.ThermalConfig)
    fields = msgspec.structs.fields(Fields)
    known = {f.name: f.default for f in (*camera, *thermal, *fields) if not f.required}
    for name in ("fps", "auth", "stall_s", "tie_s", "value", "time", "payload"):
        assert rows[name] == str(known[name]), name


def test_every_field_of_the_file_and_its_default_are_in_the_table() -> None:
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    section = page.partition("### The gateway's file\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^`|]+?)`? \|", section, re.M))
    fields = msgspec.structs.fields(GatewayConfig)
    assert rows.keys() == {field.encode_name for field in fields}
    for field in fields:
        default = "" if field.required else str(field.default)
        assert rows[field.encode_name].replace("–", "") == default, field.name
