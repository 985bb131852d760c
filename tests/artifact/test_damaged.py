"""Damaged, foreign and hostile files: each gives one clear line, or the right result without code out of the file.

A crash would end the test run; running or linking code that the saved file did not hold fails a test (`guarded`).
"""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_functions import INPUT, Saved, bits, changed, write

import tilewright as tw
from tilewright.artifact import archive, program
from tilewright.passes.schedule import SCHEDULE_VERSION

FLIPS = 240
FLIPS_FULL = 4000
CUTS = 60
CUTS_FULL = 600


@pytest.fixture(autouse=True)
def guarded(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only code of the undamaged file may be linked, deserialised or registered."""
    known = {data for name, data in saved.members.items() if name.startswith("objects/")}
    register, deserialize = program.register_plan, program.export.deserialize

    def checked_register(plan: Any, kernels: Any, code: Any = None) -> str:
        assert {k.object_code for k in kernels.values()} | {code.handler, code.entry} <= known, "foreign code"
        return register(plan, kernels, code)

    def checked_deserialize(data: bytearray) -> Any:
        assert bytes(data) == saved.members["program.export"], "a foreign program"
        return deserialize(data)

    monkeypatch.setattr(program, "register_plan", checked_register)
    monkeypatch.setattr(program.export, "deserialize", checked_deserialize)


def check(path: Path, saved: Saved) -> str:
    """What loading came to: the error in one line, or the status after a right result."""
    try:
        loaded = tw.load(path, database=":memory:")
    except tw.ArtifactError as error:
        text = str(error)
        assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < len(str(path)) + 700, text
        return text
    result = loaded(INPUT)
    if loaded.status.startswith("plain"):
        np.testing.assert_allclose(result, saved.result, rtol=1e-4, atol=1e-4)
    else:
        assert bits(result) == bits(saved.result)
    return loaded.status


def flips(saved: Saved, count: int) -> Iterator[tuple[str, bytes]]:
    """The file with one bit changed: in turn in each member's contents and in the zip's own structures."""
    rng = np.random.default_rng(20261121)
    data = saved.path.read_bytes()
    places = {"structure": np.ones(len(data), bool)}
    with zipfile.ZipFile(saved.path) as file:
        for info in file.infolist():
            start = info.header_offset + 30 + len(info.filename)
            inside = np.zeros(len(data), bool)
            inside[start : start + info.file_size] = True
            places["structure"] &= ~inside
            places[info.filename] = inside
    names = ["structure", *places]
    for number in range(count):
        name = names[number % len(names)]
        offset = int(rng.choice(np.flatnonzero(places[name])))
        bit = int(rng.integers(8))
        yield f"bit {bit} at {offset} in {name}", data[:offset] + bytes([data[offset] ^ 1 << bit]) + data[offset + 1 :]


def test_flipped_bits(saved: Saved, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "f.tw"
    refused = 0
    for what, data in flips(saved, FLIPS_FULL if request.config.getoption("--full") else FLIPS):
        path.write_bytes(data)
        outcome = check(path, saved)
        refused += outcome.startswith(str(path))
        if "in structure" not in what:
            assert outcome.startswith(str(path)) or "rebuilt from traces: the file was not signed" in outcome, what
    assert refused > FLIPS // 2


def test_truncated_and_extended(saved: Saved, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rng = np.random.default_rng(7)
    data = saved.path.read_bytes()
    path = tmp_path / "f.tw"
    full = request.config.getoption("--full")
    for length in [0, 1, 21, len(data) - 1, *rng.integers(0, len(data), CUTS_FULL if full else CUTS).tolist()]:
        path.write_bytes(data[:length])
        assert check(path, saved).startswith(f"{path}: expected a zip that Compiled.save wrote"), length
    for length in rng.integers(1, 70_000, 20).tolist():
        for extended in (data + bytes(rng.bytes(length)), bytes(rng.bytes(length)) + data):
            path.write_bytes(extended)
            check(path, saved)
    for _ in range(20):
        start, length = (int(n) for n in rng.integers(0, len(data) // 2, 2))
        path.write_bytes(data[:start] + data[start + length + 1 :])
        assert check(path, saved).startswith(str(path))
        path.write_bytes(data[:start] + bytes(rng.bytes(length)) + data[start + length :])
        check(path, saved)


# ---- what is no saved function at all


def test_other_files(saved: Saved, tmp_path: Path) -> None:
    path = tmp_path / "f.tw"
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.ones(3))
    for data in (b"", b"text", b"\x7fELF" + bytes(200), b"\x89PNG\r\n\x1a\n", bytes(5000), b"SQLite format 3\0"):
        path.write_bytes(data)
        assert "expected a zip that Compiled.save wrote" in check(path, saved)
    path.write_bytes(buffer.getvalue())
    assert "expected a file that Compiled.save wrote, found a zip without manifest.json" in check(path, saved)
    assert "expected a file, found a folder" in check(tmp_path, saved)
    assert "there is no such file" in check(tmp_path / "missing.tw", saved)
    os.mkfifo(tmp_path / "pipe")
    assert "found a device or pipe" in check(tmp_path / "pipe", saved)


# ---- zips that hide something


def entry(name: str, **fields: Any) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x", (1980, 1, 1, 0, 0, 0))
    info.filename = info.orig_filename = name
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def with_entry(saved: Saved, path: Path, info: zipfile.ZipInfo, data: bytes) -> Path:
    write(path, saved.members)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(info, data)
    return path


NAMES = (
    "../evil.py",
    "../../../../etc/cron.d/evil",
    "/etc/passwd",
    "C:\\evil.exe",
    "objects\\evil.o",
    "constants/../../evil",
    "constants/",
    "graph.txt/",
    "graph.txt ",
    "GRAPH.TXT",
    "graph.txt\0.png",
    "evil\r\nline",
    "\u202egpj.live",
    "x" * 60_000,
    "extra.bin",
    "objects/tw_000000000000000000000000.o",
)


@pytest.mark.parametrize("name", NAMES, ids=lambda n: repr(n[:20]))
def test_unexpected_members(name: str, saved: Saved, tmp_path: Path) -> None:
    outcome = check(with_entry(saved, tmp_path / "f.tw", entry(name), b"evil"), saved)
    assert outcome.startswith(str(tmp_path)), outcome
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.tw"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hidden_members(saved: Saved, tmp_path: Path) -> None:
    path = tmp_path / "f.tw"
    for name in ("graph.txt", "manifest.json", "signature", "program.export"):
        assert "two of the same name" in check(with_entry(saved, path, entry(name), saved.members[name]), saved)
    members = dict(saved.members)
    graph = members.pop("graph.txt")
    without = Saved(saved.path, saved.argument, saved.result, members)
    link = entry("graph.txt", external_attr=0o120777 << 16)
    assert "is a link or a folder" in check(with_entry(without, path, link, b"/etc/passwd"), saved)
    folder = entry("graph.txt", external_attr=0o040777 << 16)
    assert "is a link or a folder" in check(with_entry(without, path, folder, graph), saved)
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        packed = entry("graph.txt", compress_type=method)
        assert "is compressed" in check(with_entry(without, path, packed, graph), saved)
    data = bytearray(write(path, saved.members).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "is encrypted" in check(path, saved)


def test_zip_bombs(saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.tw"
    members = {name: data for name, data in saved.members.items() if name != "graph.txt"}
    without = Saved(saved.path, saved.argument, saved.result, members)
    packed = entry("graph.txt", compress_type=zipfile.ZIP_DEFLATED)
    with_entry(without, path, packed, bytes(200 << 20))
    assert path.stat().st_size < 1 << 20
    assert "is compressed" in check(path, saved)
    # Every directory entry is made to claim one and the same member: much more in all than the file is long.
    write(path, saved.members)
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02")
    while (place := data.find(b"PK\x01\x02", place + 1)) > 0:
        data[place + 42 : place + 46] = bytes(4)
    path.write_bytes(data)
    assert "inside another member" in check(path, saved)
    write(path, saved.members)
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02")
    data[place + 20 : place + 28] = struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF)
    path.write_bytes(data)
    assert "lies outside the file" in check(path, saved)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    assert "expected at most 3 members" in check(saved.path, saved)
    monkeypatch.undo()
    monkeypatch.setattr(archive, "MAX_MANIFEST_BYTES", 100)
    assert "at most 100 bytes" in check(saved.path, saved)


# ---- members that were exchanged


def test_swapped_members_do_not_have_their_digests(saved: Saved, tmp_path: Path) -> None:
    names = sorted(set(saved.members) - {"manifest.json", "signature"})
    for first, second in zip(names, names[1:] + names[:1], strict=True):
        members = {**saved.members, first: saved.members[second], second: saved.members[first]}
        outcome = check(write(tmp_path / "f.tw", members), saved)
        assert "digest" in outcome or "bytes, found" in outcome, outcome
    for name in names:
        members = {n: data for n, data in saved.members.items() if n != name}
        assert "exactly the members that the manifest lists" in check(write(tmp_path / "f.tw", members), saved)


def exchanged(saved: Saved, folder: str) -> dict[str, bytes]:
    """Members of a folder, each with the contents of the next one."""
    names = sorted(name for name in saved.members if name.startswith(folder))
    return {a: saved.members[b] for a, b in zip(names, names[1:] + names[:1], strict=True)}


@pytest.mark.parametrize("folder", ["objects/", "constants/", "traces/"])
def test_swapped_members_under_a_new_manifest(folder: str, saved: Saved, tmp_path: Path) -> None:
    copy = Saved(saved.path, saved.argument, saved.result, {**saved.members, **exchanged(saved, folder)})
    path = changed(copy, tmp_path / "f.tw")
    outcome = check(path, saved)
    if folder == "constants/":
        assert "graph.txt is not valid" in outcome or "bytes for" in outcome, outcome
    elif folder == "objects/":
        assert outcome == "rebuilt from traces: the file is not signed; 3 of 3 kernels built and checked here"
    else:
        assert outcome.startswith(("rebuilt from traces", "plain JAX")), outcome


def test_swapped_objects_do_not_run_even_if_trusted(saved: Saved, tmp_path: Path) -> None:
    copy = Saved(saved.path, saved.argument, saved.result, {**saved.members, **exchanged(saved, "objects/tw_")})
    for sign, trust in ((True, False), (False, True)):
        with pytest.raises(tw.ArtifactError, match="parts contradict each other"):
            tw.load(changed(copy, tmp_path / "f.tw", sign=sign), trust=trust)


def test_plans_that_do_not_fit_their_kernels_do_not_run(saved: Saved, tmp_path: Path) -> None:
    def put(*place: Any, value: Any) -> Callable[[Any], None]:
        def edit(manifest: Any) -> None:
            node = manifest
            for key in place[:-1]:
                node = list(node.values())[key] if isinstance(node, dict) and isinstance(key, int) else node[key]
            node[place[-1]] = value

        return edit

    edits = [
        put("calls", 0, "arena_bytes", value=64),
        put("calls", 0, "arena_bytes", value=1 << 47),
        put("calls", 0, "stages", 0, "args", value=["arena:0"]),
        put("calls", 0, "stages", 0, "args", 0, value="constant:0"),
        put("calls", 0, "stages", 0, "args", 0, value="input:7"),
        put("calls", 0, "stages", 0, "extent", value=1 << 40),
        put("calls", 0, "stages", 0, "chunks", value=1 << 19),
        put("calls", 0, "outputs", 0, value="float32[320000,40]"),
        put("calls", 0, "target", value="tilewright_" + "0" * 32 + "_" + "0" * 8),
        put("calls", 0, "constants", value=[]),
        lambda manifest: [kernel.update(num_outputs=0) for kernel in manifest["kernels"].values()],
        put("kernels", 0, "params", 0, "shape", value=[1 << 40]),
        put("kernels", 0, "params", 1, "packing", value=[{"axis": 40, "factor": 3, "extent": 5}]),
        put("kernels", 0, "params", 1, "shape", value=[1 << 20, 1 << 20]),
        put("results", 0, value="int32[32,16]"),
        put("arguments", 0, value={"type": "float32[7]", "used": True}),
        put("arguments", 0, value={"type": "float32[32,24]", "used": False}),
    ]
    for number, edit in enumerate(edits):
        path = changed(saved, tmp_path / "f.tw", sign=True, manifest=edit)
        assert check(path, saved).startswith(str(path)), number


# ---- hostile JSON


def replaced(saved: Saved, old: str, new: str) -> bytes:
    text = json.dumps(saved.manifest())
    assert old in text, old
    return text.replace(old, new, 1).encode()


DEEP = 100_000
HOSTILE: dict[str, Callable[[Saved], bytes]] = {
    "not JSON": lambda s: b"\xff\xfe{",
    "empty": lambda s: b"",
    "a list": lambda s: b"[]",
    "null": lambda s: b"null",
    "deep lists": lambda s: b"[" * DEEP + b"]" * DEEP,
    "deep objects": lambda s: b'{"inputs":' * DEEP + b"1" + b"}" * DEEP,
    "deep tree": lambda s: replaced(s, '{"kind": "leaf"}', '{"kind": "list", "children": [' * 5000 + "]}" * 5000),
    "another schema": lambda s: replaced(s, '"schema": 1', '"schema": 2'),
    "schema as text": lambda s: replaced(s, '"schema": 1', '"schema": "1"'),
    "no schema": lambda s: replaced(s, '"schema": 1, ', ""),
    "huge number": lambda s: replaced(s, '"threads": ', '"threads": 1' + "0" * 5000),
    "larger than 64 bits": lambda s: replaced(s, '"arena_bytes": ', '"arena_bytes": 99999999999999999999'),
    "NaN": lambda s: replaced(s, '"threads": ', '"threads": NaN, "x": '),
    "infinity": lambda s: replaced(s, '"schedule_version": ', '"schedule_version": Infinity, "x": '),
    "float": lambda s: replaced(s, f'"schedule_version": {SCHEDULE_VERSION}', '"schedule_version": 1.5'),
    "negative": lambda s: replaced(s, '"extent": ', '"extent": -'),
    "boolean": lambda s: replaced(s, '"x64": false', '"x64": "no"'),
    "huge text": lambda s: replaced(s, '"name": "mixed"', '"name": "' + "x" * (5 << 20) + '"'),
    "lone surrogate": lambda s: replaced(s, '"name": "mixed"', '"name": "\\ud800"'),
    "unknown field": lambda s: replaced(s, '"x64": false', '"x64": false, "run": "rm -rf /"'),
    "wrong type": lambda s: replaced(s, '"members": {', '"members": [], "other": {'),
    "object type": lambda s: replaced(s, '"type": "float32[32,24]"', '"type": "object[32,24]"'),
    "key type": lambda s: replaced(s, '"type": "float32[32,24]"', '"type": "key<fry>[]"'),
    "endless shape": lambda s: replaced(s, '"type": "float32[32,24]"', '"type": "float32[' + "9" * 500 + ']"'),
    "long shape": lambda s: replaced(s, '"type": "float32[32,24]"', '"type": "float32[' + "1," * 90_000 + '1]"'),
    "bad member": lambda s: replaced(s, '"graph.txt": {', '"../graph.txt": {'),
    "bad symbol": lambda s: replaced(s, '"kernel": "tw_', '"kernel": "../tw_'),
    "bad slot": lambda s: replaced(s, '"input:0"', '"input:-1"'),
    "long slot": lambda s: replaced(s, '"input:0"', '"input:' + "9" * 5000 + '"'),
    "bad window": lambda s: replaced(s, '"input:0"', '"input:0@-8+0"'),
    "bad repeat": lambda s: replaced(
        s, '"stages": [', '"repeats": [{"first": 0, "stages": 1, "count": -9}], "stages": ['
    ),
    "unknown tree": lambda s: replaced(s, '"kind": "leaf"', '"kind": "os.system"'),
    "unregistered type": lambda s: replaced(
        s,
        '"outputs": {"kind": "leaf"}',
        '"outputs": {"kind": "custom", "name": "os.system", "children": [{"kind": "leaf"}]}',
    ),
    "leaf with children": lambda s: replaced(s, '{"kind": "leaf"}', '{"kind": "leaf", "children": [{"kind": "leaf"}]}'),
    "dict without keys": lambda s: replaced(s, '{"kind": "leaf"}', '{"kind": "dict", "children": [{"kind": "leaf"}]}'),
    "more leaves": lambda s: replaced(s, '"results": [', '"results": ["float32[1]", '),
    "constant of another size": lambda s: replaced(s, '"float32[24,40]"', '"float32[24,41]"'),
    "constant of another shape": lambda s: replaced(s, '"float32[24,40]"', '"float32[40,24]"'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_manifests(name: str, saved: Saved, tmp_path: Path) -> None:
    data = HOSTILE[name](saved)
    members = {**saved.members, "manifest.json": data}
    members.pop("signature")
    outcome = check(write(tmp_path / "f.tw", members), saved)
    assert outcome.startswith(str(tmp_path)), outcome
    if name == "another schema":
        assert "expected a file of schema 1, found 2" in outcome


def graph_text(saved: Saved, old: str, new: str) -> bytes:
    text = saved.members["graph.txt"].decode()
    assert old in text
    return text.replace(old, new, 1).encode()


GRAPHS: dict[str, Callable[[Saved], bytes]] = {
    "binary": lambda s: bytes(range(256)),
    "empty": lambda s: b"",
    "no return": lambda s: s.members["graph.txt"].rsplit(b"return", 1)[0],
    "another version": lambda s: graph_text(s, "graph 1", "graph 99"),
    "deep parameters": lambda s: graph_text(s, '"is_stable": true', '"is_stable": ' + "[" * DEEP + "]" * DEEP),
    "wrong parameters": lambda s: graph_text(s, '"is_stable": true', '"is_stable": "yes", "more": [1, "x"]'),
    "missing parameters": lambda s: graph_text(s, '"is_stable": true, ', ""),
    "huge axis": lambda s: graph_text(s, '"dimension": 1', '"dimension": 1' + "0" * 5000),
    "axis too large": lambda s: graph_text(s, '"dimension": 1', '"dimension": 7'),
    "NaN axis": lambda s: graph_text(s, '"dimension": 1', '"dimension": NaN'),
    "unknown operation": lambda s: graph_text(s, "sort(", "os_system("),
    "callback": lambda s: graph_text(s, "sort(", "pure_callback("),
    "custom call": lambda s: graph_text(s, "sort(", "ffi_call("),
    "native call": lambda s: graph_text(s, "sort(", "tilewright_plan("),
    "opaque": lambda s: graph_text(s, "= sort(", "= opaque sort("),
    "huge value": lambda s: graph_text(s, "input float32[32,24]", "input float32[320000000,24000000]"),
    "huge shape": lambda s: graph_text(s, "input float32[32,24]", "input float32[" + "9" * 5000 + "]"),
    "another type": lambda s: graph_text(s, "input float32[32,24]", "input int32[32,24]"),
    "another input": lambda s: graph_text(s, "input float32[32,24]", "input float32[32,24]\n%99 = input float32[4]"),
    "unknown type": lambda s: graph_text(s, "input float32[32,24]", "input object[32,24]"),
    "wrong declared type": lambda s: graph_text(s, '"num_keys": 1} : float32[32,40]', '"num_keys": 1} : int32[32,40]'),
    "read before": lambda s: graph_text(s, "sort(%", "sort(%9"),
    "twice": lambda s: graph_text(s, "return", "%0 = input float32[1]\nreturn"),
    "unknown constant": lambda s: graph_text(s, "blake2b:", "blake2b:0"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_hostile_graphs(name: str, saved: Saved, tmp_path: Path) -> None:
    path = changed(saved, tmp_path / "f.tw", graph__txt=GRAPHS[name](saved))
    outcome = check(path, saved)
    assert outcome.startswith(str(path)), outcome


TRACES = {
    "not JSON": b"{",
    "binary": b"\xff\x00",
    "deep": b"[" * DEEP + b"]" * DEEP,
    "huge number": b'[["split","x",[1' + b"0" * 5000 + b"]]]",
    "NaN": b'[["split","x",[NaN]]]',
    "an object": b"{}",
    "wrong rows": b'[["split","x"]]',
    "float": b'[["split","x",[1.5]]]',
    "unknown primitive": b'[["os.system","rm -rf /",[]]]',
    "wrong arguments": b'[["split","x",["a","b","c"]]]',
    "negative": b'[["split","x",[-1]]]',
    "enormous": b'[["split","x",[9223372036854775807]]]',
    "empty": b"[]",
}


@pytest.mark.parametrize("name", TRACES)
def test_hostile_traces(name: str, saved: Saved, tmp_path: Path) -> None:
    replaced = {key: TRACES[name] for key in saved.members if key.startswith("traces/")}
    copy = Saved(saved.path, saved.argument, saved.result, {**saved.members, **replaced})
    path = changed(copy, tmp_path / "f.tw")
    outcome = check(path, saved)
    assert outcome.startswith((f"{path}: traces/", "plain JAX: ", "rebuilt from traces: ")), outcome
