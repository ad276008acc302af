"""Documents of terminals: JSON and XML, and XML that would be a weapon."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BodyInvalid
from engine.gateway.gear.documents import DEPTH_MAX, NODES_MAX, SIZE_MAX, find, read_document

XML = """<?xml version="1.0" encoding="UTF-8"?>
<h:Alert xmlns:h="urn:x" version="2"><h:device id="th-1"> Cổng 1 </h:device>
<list><t>36.5</t><t unit="C">37.9</t></list><empty/></h:Alert>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_as_a_tree(encoding: str) -> None:
    tree = read_document(XML.replace("UTF-8", encoding).encode(encoding))
    asked = {
        "Alert.@version": "2",
        "Alert.device": "Cổng 1",
        "Alert.device.@id": "th-1",
        "Alert.list.t.0": "36.5",
        "Alert.list.t.1": "37.9",
        "Alert.list.t.1.@unit": "C",
        "Alert.empty": "",
        "Alert.list.t.2": None,
        "Alert.list": None,
        "Alert": None,
        "": None,
        "Alert.device.x": None,
    }
    assert {path: find(tree, path) for path in asked} == asked


def test_json_as_a_tree() -> None:
    tree = read_document(
        '\ufeff {"a": {"b": [1, {"c": 36.5}], "d": "x"}, "e": true, "f": null}'.encode()
    )
    asked = {
        "a.b.0": 1,
        "a.b.1.c": 36.5,
        "a.d": "x",
        "e": None,
        "f": None,
        "a.b.x": None,
        "a": None,
    }
    assert {path: find(tree, path) for path in asked} == asked


BOMB = '<!DOCTYPE a [<!ENTITY x "1234567890"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]><a>&y;&y;</a>'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"temperature=36.5",
        b"{",
        b'{"a": ' + b"[" * 5_000,
        b"<a>",
        b"<a></b>",
        b"<a>&undeclared;</a>",
        b'<?xml version="1.0" encoding="no-such"?><a/>',
        BOMB.encode(),
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        b'<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1/x"> %x;]><a/>',
        BOMB.encode("utf-16"),
        b"<a>" * (DEPTH_MAX + 1) + b"</a>" * (DEPTH_MAX + 1),
        b"<a>" + b"<b/>" * NODES_MAX + b"</a>",
        b'{"a": "' + b"x" * SIZE_MAX + b'"}',
        b"<a \xff='1'/>",
    ],
)
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(BodyInvalid) as refused:
        read_document(data)
    assert "passwd" not in str(refused.value) and "x" * 20 not in str(refused.value)


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_any_bytes_are_a_tree_or_refused(data: bytes) -> None:
    for prefix in (b"", b"<a>", b"{"):
        try:
            find(read_document(prefix + data), "a.b.0")
        except BodyInvalid:
            continue
