"""Ways to damage a file: by its bytes, by the fields of its JSON or YAML, by its columns, by the members of an archive.

What is drawn are short lists of changes, so that an example that fails is short too.
"""

import io
import json
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

FAR = "../../outside/planted"
"""A path that leads out of the folder that a test works in."""
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 10**6, 2**31, 2**63, -(2**70), 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *("", " ", "0", "x", "nan", "1e999", FAR, "/etc/passwd", "a\0b", "x" * 3000, "é\u202e\n|", "$HOME", "~"),
    *([], [None], [[]], [-1], [10**6], ["x", "x"], {}, {"": None}, {"x": {"y": []}}),
)
TYPES = (pa.string(), pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.bool_(), pa.binary(), pa.null())
TYPES += (pa.list_(pa.int32()), pa.list_(pa.string()), pa.timestamp("ns"), pa.struct([("x", pa.int32())]))


class Damage(NamedTuple):
    """`apply(changes)` is the damaged file, for changes drawn from `changes`."""

    changes: st.SearchStrategy
    apply: Callable[[Any], bytes]


def of_bytes(good: bytes, *words: bytes) -> Damage:
    """Bits, bytes, lengths and words of the format, anywhere."""
    return Damage(st.lists(_byte_change(len(good), words), min_size=1, max_size=5), lambda changes: _cut(good, changes))


def of_json(good: Any) -> Damage:
    """Values of every kind in every place, keys missing, renamed and added; then written as JSON, NaN and all."""
    return _of_tree(good, lambda data: json.dumps(data).encode())


def of_yaml(good: Any) -> Damage:
    return _of_tree(good, lambda data: yaml.safe_dump(data, sort_keys=False).encode())


def of_table(good: pa.Table) -> Damage:
    """Columns missing, renamed and of another type, cells of any value, rows missing and doubled; as Parquet."""
    rows, columns = good.num_rows, good.column_names
    row, column = st.integers(0, max(0, rows - 1)), st.sampled_from(columns)
    change = st.one_of(
        st.tuples(st.just("cell"), column, row, st.sampled_from(ODD)),
        st.tuples(st.just("type"), column, st.sampled_from(TYPES)),
        st.tuples(st.just("nulls"), column),
        st.tuples(st.just("drop"), column),
        st.tuples(st.just("rename"), column, st.sampled_from((*columns, "x", ""))),
        st.tuples(st.just("rows"), row, row),
        st.tuples(st.just("double"), row),
        st.tuples(st.just("metadata"), st.sampled_from((b"", b"[", b"null", b"[0.5]", b'["x"]', b"[NaN]", b"{}"))),
    )
    return Damage(st.lists(change, min_size=1, max_size=3), lambda changes: _parquet(_changed(good, changes)))


def of_tar(members: Sequence[tuple[str, bytes]], mode: str = "w") -> Damage:
    """Members that lead elsewhere, links, devices, sparse, wrong sizes, doubled names, pax headers; then bytes."""
    change, odd = st.sampled_from(tuple(_TAR)), st.sampled_from(ODD)
    changes = st.lists(st.tuples(change, st.integers(0, len(members) - 1), odd), min_size=0, max_size=3)
    later = st.lists(_byte_change(512 * 2 * len(members), (b"ustar", b"path=../x\n", b"size=99\n")), max_size=2)
    return Damage(st.tuples(changes, later), lambda drawn: _cut(_tar(members, drawn[0], mode), drawn[1]))


def of_zip(members: Sequence[tuple[str, bytes]]) -> Damage:
    """Members that lead elsewhere, links, other compressions, doubled names; then bytes."""
    change, odd = st.sampled_from(("name", "link", "method", "double", "empty")), st.sampled_from(ODD)
    changes = st.lists(st.tuples(change, st.integers(0, len(members) - 1), odd), min_size=0, max_size=3)
    size = sum(len(data) + 120 for _, data in members)
    later = st.lists(_byte_change(size, (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6")), max_size=3)
    return Damage(st.tuples(changes, later), lambda drawn: _cut(_zip(members, drawn[0]), drawn[1]))


def of_safetensors(good: bytes) -> Damage:
    """The header's JSON, whose length stands before it."""
    (size,) = struct.unpack("<Q", good[:8])
    header = of_json(json.loads(good[8 : 8 + size]))

    def apply(changes) -> bytes:
        said = header.apply(changes)
        return struct.pack("<Q", len(said)) + said + good[8 + size :]

    return Damage(header.changes, apply)


def of_torch(good: bytes) -> Damage:
    """The pickle inside a .pth, which is a zip whose checksums are made to fit."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = next(number for number, (name, _) in enumerate(members) if name.endswith("data.pkl"))
    words = (
        b"cos\nsystem\n",
        b"cposix\nsystem\n",
        b"\x93",
        b"R",
        b"\x85",
        b"c__builtin__\neval\n",
        b"b",
        b"\x81",
        b"Q",
    )
    pickled = of_bytes(members[place][1], *words)

    def apply(changes) -> bytes:
        return _zip([*members[:place], (members[place][0], pickled.apply(changes)), *members[place + 1 :]], [])

    return Damage(pickled.changes, apply)


def _byte_change(size: int, words: Sequence[bytes]) -> st.SearchStrategy:
    at, few = st.integers(0, max(0, size - 1)), st.integers(1, 64)
    words = (*words, b"\0" * 16, b"\xff" * 8, b"../" * 3, b"\xed\xa0\x80", b"9" * 25, b"\r\n")
    return st.one_of(
        st.tuples(st.just("flip"), at, st.integers(0, 7)),
        st.tuples(st.just("set"), at, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("set"), at, st.sampled_from(words)),
        st.tuples(st.just("insert"), at, st.sampled_from(words)),
        st.tuples(st.just("insert"), at, st.binary(min_size=1, max_size=16)),
        st.tuples(st.just("drop"), at, few),
        st.tuples(st.just("copy"), at, few),
        st.tuples(st.just("cut"), at, few),
        st.tuples(st.just("number"), at, st.sampled_from((0, 1, 2**15, 2**31 - 1, 2**32 - 1, 2**63 - 1))),
    )


def _cut(good: bytes, changes: Sequence[tuple]) -> bytes:
    """The bytes after all changes; a place behind the end is counted from the start again."""
    data = bytearray(good)
    for kind, at, what in changes:
        at = at % len(data) if data else 0
        if kind == "flip" and data:
            data[at] ^= 1 << what
        elif kind == "set":
            data[at : at + len(what)] = what
        elif kind == "insert":
            data[at:at] = what
        elif kind == "drop":
            del data[at : at + what]
        elif kind == "copy":
            data[at:at] = data[at : at + what]
        elif kind == "cut":
            del data[at:]
        elif kind == "number":
            packed = struct.pack(">Q" if at % 2 else "<Q", what)
            data[at : at + 8] = packed
    return bytes(data)


def _of_tree(good: Any, write: Callable[[Any], bytes]) -> Damage:
    places = [place for place in _places(good) if place]
    place, odd = st.sampled_from(places), st.sampled_from(ODD)
    change = st.one_of(
        st.tuples(st.just("value"), place, odd),
        st.tuples(st.just("drop"), place, st.none()),
        st.tuples(st.just("rename"), place, st.sampled_from(("", "x", FAR, "extra"))),
        st.tuples(st.just("add"), place, odd),
        st.tuples(st.just("from"), place, place),
        st.tuples(st.just("whole"), place, odd),
    )

    def apply(changes) -> bytes:
        data = json.loads(json.dumps(good))
        for kind, where, what in changes:
            data = _grown(data, kind, where, what)
        return write(data)

    return Damage(st.lists(change, min_size=1, max_size=3), apply)


def _places(data: Any, so_far: tuple = ()) -> list[tuple]:
    below = data.items() if isinstance(data, dict) else enumerate(data[:3]) if isinstance(data, list) else ()
    return [so_far, *(place for key, value in below for place in _places(value, (*so_far, key)))]


def _grown(data: Any, kind: str, where: tuple, what: Any) -> Any:
    """`data` with one change; unchanged where an earlier change took the place away."""
    if kind == "whole":
        return what if len(where) == 1 else data
    parent = data
    try:
        for key in where[:-1]:
            parent = parent[key]
        if kind == "value":
            parent[where[-1]] = what
        elif kind == "drop":
            del parent[where[-1]]
        elif kind == "rename":
            parent[what] = parent.pop(where[-1])
        elif kind == "add":
            parent["extra"] = what
        else:
            copied = data
            for key in what:
                copied = copied[key]
            parent[where[-1]] = json.loads(json.dumps(copied))
    except (KeyError, IndexError, TypeError, AttributeError):
        pass
    return data


def _changed(table: pa.Table, changes: Sequence[tuple]) -> pa.Table:
    for kind, *what in changes:
        if kind == "rows":
            table = table.slice(min(what), max(what) - min(what))
        elif kind == "double" and table.num_rows:
            table = pa.concat_tables([table, table.slice(what[0] % table.num_rows, 1)])
        elif kind == "metadata":
            table = table.replace_schema_metadata({key: what[0] for key in table.schema.metadata or {}})
        elif what[0] in table.column_names:
            table = _column_changed(table, kind, *what)
    return table


def _column_changed(table: pa.Table, kind: str, name: str, *what: Any) -> pa.Table:
    place = table.column_names.index(name)
    column = table.column(place).combine_chunks()
    if kind == "drop":
        return table.remove_column(place)
    if kind == "rename":
        return table.rename_columns([what[0] if old == name else old for old in table.column_names])
    if kind == "nulls":
        return table.set_column(place, name, pa.nulls(len(column), column.type))
    if kind == "type":
        try:
            column = column.cast(what[0], safe=False)
        except pa.ArrowException:
            column = pa.nulls(len(column), what[0])
        return table.set_column(place, name, column)
    values = column.to_pylist()
    if values:
        values[what[0] % len(values)] = what[1]
    for kind_of_column in (column.type, None):
        try:
            array = pa.array(values, kind_of_column)
            if array.type != pa.struct([]):  # Parquet cannot hold it
                return table.set_column(place, name, array)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
    return table


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


_TAR = ("name", "link", "symlink", "device", "fifo", "folder", "sparse", "size", "double", "pax", "global", "strange")
_TAR_TYPES = {
    "link": tarfile.LNKTYPE,
    "symlink": tarfile.SYMTYPE,
    "device": tarfile.CHRTYPE,
    "fifo": tarfile.FIFOTYPE,
    "folder": tarfile.DIRTYPE,
    "sparse": tarfile.GNUTYPE_SPARSE,
    "strange": b"Z",
}


def _tar(members: Sequence[tuple[str, bytes]], changes: Sequence[tuple], mode: str) -> bytes:
    infos, before = [], b""
    for name, data in members:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        infos.append((info, data))
    for kind, place, odd in changes:
        info, data = infos[place]
        text = odd.replace("\0", "?") if isinstance(odd, str) and odd else FAR
        if kind == "name":
            info.name = text
        elif kind == "size":
            info.size = abs(odd) % 8**11 if isinstance(odd, int) else 7
        elif kind == "double":
            infos.append((info, data))
        elif kind == "pax":
            info.pax_headers = {"path": text, "size": str(odd), "GNU.sparse.map": text}
        elif kind == "global":
            before += tarfile.TarInfo.create_pax_global_header({"path": text, "size": str(odd)})
        else:
            info.type, info.linkname = _TAR_TYPES[kind], text
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        blocks = [info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512) for info, data in infos]
        for block in (before, *blocks):
            tar.fileobj.write(block)
            tar.offset += len(block)
    return buffer.getvalue()


def _zip(members: Sequence[tuple[str, bytes]], changes: Sequence[tuple]) -> bytes:
    infos = [[zipfile.ZipInfo(name), data] for name, data in members]
    for kind, place, odd in changes:
        info = infos[place][0]
        if kind == "name":
            info.filename = odd if isinstance(odd, str) and odd else FAR
        elif kind == "link":
            info.external_attr = 0o120777 << 16
        elif kind == "method":
            info.compress_type = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)[place % 3]
        elif kind == "double":
            infos.append([zipfile.ZipInfo(info.filename), b"another"])
        else:
            infos[place][1] = b""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of doubled names
        for info, data in infos:
            archive.writestr(info, data)
    return buffer.getvalue()
