"""Seeded mutations of files: of bytes, and where the format is known of its structure.

A file of JSON is taken apart and put together with one value changed, a PNG chunk or a tar header gets its checksum
again after it was changed, the header of a safetensors file is JSON of another length: so that a reader is met behind
its first check, too.
"""

import io
import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * b"0" + b"\nsize 12345\n"
TOKENS = (
    b"1e999",
    b"-1e999",
    b"NaN",
    b"Infinity",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"9" * 400,
    b"18446744073709551616",
    b"9223372036854775807",
    b"4294967295",
    b"-2147483649",
    b"0.1e-400",
    b"\\u0000",
    b"\\ud800",
    b"\\udfff\\ud800",
    b"\0",
    b"\x1b]0;title\x07\x1b[2J",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    "e\u0301\u200b\u202e\u2028".encode(),
    b"../../../etc/passwd",
    b"/dev/zero",
    b"/proc/self/mem",
    b"..\\..\\a",
    b"a" * 70000,
    b"[" * 20000,
    b'{"a":' * 5000,
    b'"',
    b"'",
    b"\r",
    b"\n\n",
    b",",
    b"%s%n",
    b"{0.__class__}",
    b"os.system",
    LFS_POINTER,
)
"""What readers have stumbled over."""
RAW = (
    "1e999",
    "-1e999",
    "NaN",
    "-Infinity",
    "9" * 400,
    "9" * 5000,
    "18446744073709551616",
    "-9223372036854775809",
    "4294967296",
    "2147483648",
    "65536",
    "1e308",
    "5e-324",
    "-0.0",
    "0",
    "-1",
    "1",
    "0.5",
    "true",
    "false",
    "null",
    '""',
    '" "',
    '"1"',
    '"\\ud800"',
    '"\\u0000"',
    '"\\u001b]0;title\\u0007\\u001b[2J"',
    '"../../.."',
    '"/"',
    '"' + "a" * 70000 + '"',
    "[]",
    "{}",
    "[[]]",
    "[null]",
    '{"a": {}}',
    "[" * 900 + "]" * 900,
    "[" * 20000 + "]" * 20000,
    '{"a":' * 3000 + "0" + "}" * 3000,
    "[" + "0," * 50000 + "0]",
)
"""Values of JSON, and what is none, as they are spelt in a file."""
HERE = "<here>"
"""Stands in a tree for what JSON cannot spell, until it is text."""
NUMBERS = (0, 1, 2, *(2**n + more for n in (7, 8, 15, 16, 24, 31, 32, 40, 63, 64) for more in (-1, 0)))


def mutate(rng: random.Random, name: str, data: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    """Another content for a file of this name, and what was done to it; `others` are contents to splice with."""
    done: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        structured = _structured(name, data)
        if done and structured is _parquet:  # Arrow may end the process that reads what is damaged
            structured = None
        change = structured if structured is not None and rng.random() < 0.65 else _bytes
        data, what = change(rng, data, others)
        done.append(what)
    return data, ", ".join(done)


def _structured(name: str, data: bytes) -> Callable[..., tuple[bytes, str]] | None:
    """How the structure of a file is changed, by its name and its first bytes."""
    if name.endswith(".jsonl"):
        return _json_lines
    if name.endswith(".json"):
        return _json
    if name.endswith(".safetensors"):
        return _safetensors
    if name.endswith((".txt", ".csv")):
        return _text
    if name.endswith(".tar"):
        return _tar
    if name.endswith(".npy"):
        return _npy
    if name.endswith(".parquet"):
        return _parquet
    return _png if data.startswith(b"\x89PNG") else None


def _bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    kind = rng.choice(
        ("flip", "flip", "byte", "run", "cut", "drop", "insert", "token", "number", "number", "splice", "twice")
    )
    at = rng.randrange(len(data) + 1)
    if rng.random() < 0.3:  # where headers, footers and their lengths stand
        at = min(len(data), rng.randrange(64)) if rng.random() < 0.5 else max(0, len(data) - rng.randrange(64))
    length = min(len(data) - at, 1 << rng.randrange(12))
    what = f"{kind} at {at}"
    if kind == "flip":
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 4, 16)) if data else 0):
            changed[rng.randrange(len(data)) if at >= len(data) else at] ^= 1 << rng.randrange(8)
            at = rng.randrange(len(data))
        return bytes(changed), what
    if kind == "byte":
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :], what
    if kind == "run":
        return data[:at] + rng.choice((b"\0", b"\xff", b" ", b"0")) * length + data[at + length :], what
    if kind == "cut":
        return data[:at], what
    if kind == "drop":
        return data[:at] + data[at + length :], f"{what}, {length} bytes"
    if kind == "insert":
        return data[:at] + rng.randbytes(length) + data[at:], f"{what}, {length} bytes"
    if kind == "token":
        token = rng.choice(TOKENS)
        over = len(token) if rng.random() < 0.3 else 0
        return data[:at] + token + data[at + over :], f"{token[:24]!r} at {at}"
    if kind == "number":
        at -= at % rng.choice((1, 4, 8))
        form, number = rng.choice(("<I", ">I", "<Q", ">Q", "<H", ">H")), rng.choice(NUMBERS)
        packed = struct.pack(form, number % (1 << 8 * struct.calcsize(form)))
        return data[:at] + packed + data[at + len(packed) :], f"{form} {number} at {at}"
    if kind == "splice":
        other = rng.choice(others) if others else data
        return data[:at] + other[rng.randrange(len(other) + 1) :], what
    return data[:at] + data[at : at + length] * 2 + data[at + length :], what


def _json(rng: random.Random, data: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _bytes(rng, data, others)
    holder = [value]  # so that the root can be changed like any other value
    parent, key, path = _pick(rng, holder)
    kind = rng.choice(("raw", "raw", "raw", "delete", "twice", "rename", "copy", "wrap", "text"))
    raw: list[str] = []
    if kind == "delete" and parent is not holder:
        del parent[key]
    elif kind == "twice" and isinstance(parent, dict):
        raw.append(f"0, {json.dumps(key)}: {rng.choice(RAW)}")
    elif kind == "rename" and isinstance(parent, dict):
        parent[rng.choice(("", "a", "\0", "kind", "../x", f"{key}_", key.upper()))] = parent.pop(key)
    elif kind == "copy":
        other, name, _ = _pick(rng, holder)
        parent[key] = json.loads(json.dumps(other[name]))
    elif kind == "wrap":
        parent[key] = [parent[key]] if rng.random() < 0.5 else {"a": parent[key]}
    elif kind == "text" and isinstance(parent[key], int | float):
        parent[key] = str(parent[key])
    else:
        kind = "raw"
        raw.append(rng.choice(RAW))
    if raw:
        parent[key] = HERE
    text = json.dumps(holder[0], ensure_ascii=rng.random() < 0.5)
    if raw:
        text = text.replace(f'"{HERE}"', raw[0])
    return text.encode("utf-8", "surrogatepass"), f"{kind} {path} {raw[0][:40] if raw else ''}".strip()


def _pick(rng: random.Random, holder: list) -> tuple[Any, Any, str]:
    """A value of a JSON tree: what holds it, under which key, and its path; large tables do not crowd out the rest."""
    parent, key, path = holder, 0, "$"
    while isinstance(inner := parent[key], dict | list) and inner and rng.random() < 0.85:
        parent, key = inner, rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        path += f".{str(key)[:40]}"
    return parent, key, path


def _json_lines(rng: random.Random, data: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    if rng.random() < 0.15:
        lines.insert(rng.randrange(len(lines)), lines[number])
        return b"\n".join(lines), f"line {number + 1} twice"
    lines[number], what = _json(rng, lines[number], others)
    return b"\n".join(lines), f"line {number + 1}: {what}"


def _safetensors(rng: random.Random, data: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    length = int.from_bytes(data[:8], "little")
    header, what = _json(rng, data[8 : 8 + length], others)
    return len(header).to_bytes(8, "little") + header + data[8 + length :], f"header: {what}"


def _text(rng: random.Random, data: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    """A word, a field or a line is another one."""
    words = re.split(rb"([\n,\s]+)", data)
    at = rng.randrange(len(words))
    kind = rng.choice(("token", "token", "raw", "drop", "twice", "swap", "quote"))
    other = rng.randrange(len(words))
    if kind == "token":
        words[at] = rng.choice(TOKENS)
    elif kind == "raw":
        words[at] = rng.choice(RAW).encode()
    elif kind == "swap":
        words[at], words[other] = words[other], words[at]
    elif kind == "quote":
        words[at] = b'"' + words[at]
    else:
        words[at] = words[at] * 2 if kind == "twice" else b""
    return b"".join(words), f"word {at}: {kind} {words[at][:24]!r}"


def _npy(rng: random.Random, data: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    """Another type or shape in the header; its length stays."""
    end = 10 + int.from_bytes(data[8:10], "little")
    header = data[10:end].rstrip()
    old, new = rng.choice(
        (
            (
                rb"'descr': [^ ]+,",
                b"'descr': %s," % rng.choice((b"'<f8'", b"'|O'", b"'<i1'", b"'<U9'", b"[('a','<i4')]", b"7")),
            ),
            (
                rb"\([0-9, ]*\)",
                b"(%s,)" % rng.choice((b"0", b"-1", b"9" * 12, b"9" * 30, b"3", b"2, 2", b"1" + b",1" * 40)),
            ),
            (rb"False", rng.choice((b"True", b"None", b"[]"))),
        )
    )
    header = re.sub(old, new.replace(b"\\", b"\\\\"), header, count=1)
    return data[:10] + header.ljust(end - 11)[: end - 11] + b"\n" + data[end:], f"header {new[:40]!r}"


def _png(rng: random.Random, data: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    """A chunk is changed, doubled, dropped or put in, its checksum right."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return _bytes(rng, data, others)
    i, kind = rng.randrange(len(chunks)), rng.choice(("change", "change", "twice", "drop", "put"))
    name, content = chunks[i]
    if kind == "change":
        content, what = _bytes(rng, content, others)
        chunks[i], kind = (name, content), f"{what} in"
    elif kind == "put":
        name = rng.choice(
            (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"gAMA", b"abCd")
        )
        content = rng.choice((b"", b"a\0\0", b"a\0" + bytes(2**21), b"x\0\0" + zlib.compress(bytes(2**24))))
        chunks.insert(rng.randrange(1, len(chunks) + 1), (name, content))
    elif kind == "twice":
        chunks.insert(i, chunks[i])
    else:
        del chunks[i]
    parts = [len(c).to_bytes(4, "big") + n + c + zlib.crc32(n + c).to_bytes(4, "big") for n, c in chunks]
    return data[:8] + b"".join(parts), f"{kind} {name.decode('latin-1')}"


def _tar(rng: random.Random, data: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    """A field of a header is another one, the header's checksum right."""
    headers = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return _bytes(rng, data, others)
    at = rng.choice(headers)
    block = bytearray(data[at : at + 512])
    start, end, values = rng.choice(
        (
            (
                0,
                100,
                (
                    b"../x.png",
                    b"/a.png",
                    b"a\\b.png",
                    b"._000000.png",
                    b"\xff.png",
                    b"x/",
                    b"",
                    b"a.b.c.PNG",
                    b"\x1b[2J.txt",
                ),
            ),
            (
                124,
                136,
                (
                    b"77777777777",
                    b"00000000000",
                    b"-1",
                    b"\x80" + b"\xff" * 11,
                    b"\xff" * 12,
                    b"\x80" + bytes(6) + b"\7\0\0\0\0",
                ),
            ),
            (156, 157, (b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"K", b"x", b"g", b"S", b"V", b"\0", b"D")),
            (345, 500, (b"a" * 155, b"..", b"\xff")),
        )
    )
    value = rng.choice(values)
    block[start:end] = value[: end - start].ljust(end - start, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:at] + bytes(block) + data[at + 512 :], f"{value[:20]!r} at {at + start}"


def _parquet(rng: random.Random, data: bytes, others: Sequence[bytes]) -> tuple[bytes, str]:
    """A column of another type, or other notes in the schema; written anew, so that all its sums are right."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError, ValueError):
        return _bytes(rng, data, others)
    if rng.random() < 0.25:
        notes = (table.schema.metadata or {}).get(b"huggingface", b"{}")
        notes, what = _json(rng, notes, others)
        table = table.replace_schema_metadata({"huggingface": notes})
    else:
        column, (values, kind) = rng.randrange(table.num_columns), rng.choice(_COLUMNS)
        array = pa.array([rng.choice(values) for _ in range(table.num_rows)], kind)
        name, what = table.column_names[column], f"column {table.column_names[column]} is {array.type}"
        if rng.random() < 0.3:
            table = table.append_column(rng.choice((name, "", "a.b", "\x1b[2J", "text", "caption")), array)
        else:
            table = table.set_column(column, name, array)
    buffer, size, packed = io.BytesIO(), rng.choice((1, 2, 100)), rng.choice(("snappy", "none", "gzip"))
    try:
        pq.write_table(table, buffer, row_group_size=size, compression=packed)
    except pa.ArrowException:  # Parquet has no such values
        return _bytes(rng, data, others)
    return buffer.getvalue(), what


def _columns() -> tuple[tuple[tuple, Any], ...]:
    """Values, and the Arrow type to store them as."""
    import decimal

    import pyarrow as pa

    ends = (-(2**63) + 1, 2**63 - 1, 0, None)
    picture = {"bytes": b"\xff\xd8", "path": "../a.png"}
    return (
        *(
            (ends, pa.timestamp(unit, zone))
            for unit in ("s", "ms", "us", "ns")
            for zone in (None, "UTC", "Europe/Rome")
        ),
        *((ends, pa.duration(unit)) for unit in ("s", "us", "ns")),
        ((-(2**31), 2**31 - 1, 0, None), pa.date32()),
        ((0, 86399999, None), pa.time32("ms")),
        ((0, 10**9 * 86400 - 1, None), pa.time64("ns")),
        ((decimal.Decimal("1e30"), decimal.Decimal("-0.001"), None), pa.decimal128(38, 3)),
        ((float("nan"), float("inf"), -0.0, 1e308, None), pa.float64()),
        ((float("inf"), None), pa.float32()),
        ((b"a cat", b"\xff\xfe", b"", None), pa.binary()),
        ((b"abcd", None), pa.binary(4)),
        ((b"a cat", None), pa.large_binary()),
        (("a", "\0", "\x1b[2J", "", None), pa.large_string()),
        (("a", "b", None), pa.dictionary(pa.int32(), pa.string())),
        (([], ["a"], [None], None), pa.list_(pa.string())),
        (([b"a", b"\xff"], []), pa.list_(pa.binary())),
        (([[1], None], []), pa.list_(pa.list_(pa.int64()))),
        (([picture], [], [picture, None]), pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
        (([("k", 1)], [("k", 1), ("k", 2)], []), pa.map_(pa.string(), pa.int64())),
        (({"a": {"b": 2**62}}, None), pa.struct([("a", pa.struct([("b", pa.int64())]))])),
        ((2**64 - 1, 0, None), pa.uint64()),
        ((True, False, None), pa.bool_()),
        ((None,), pa.null()),
    )


_COLUMNS = _columns()
