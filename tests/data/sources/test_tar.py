"""The tar reader: what Python's `tarfile` writes is found where it lies; what is cut or hostile is refused."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reimagen_jax.data.sources import tar
from reimagen_jax.data.sources.tar import BLOCK, TarError, members

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def archive(files, kind=tarfile.PAX_FORMAT, **fields) -> bytes:
    """An archive of {name: content}, as the standard library writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            out.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def read(data: bytes) -> list:
    return list(members(io.BytesIO(data), len(data)))


def contents(data: bytes) -> dict[str, bytes]:
    return {m.name: data[m.offset : m.offset + m.size] for m in read(data) if m.kind == "file"}


@pytest.mark.parametrize("kind", FORMATS)
def test_finds_what_tarfile_writes(kind):
    files = {"a.txt": b"", "sub/b.jpg": b"x" * 511, "c": b"y" * 512, "d/e/f.json": b"z" * 5000}
    assert contents(archive(files, kind)) == files


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@settings(max_examples=30, deadline=None)
@given(
    files=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=300).filter(
            lambda name: name.strip("/") == name
        ),
        st.binary(max_size=1100),
        max_size=4,
    )
)
def test_any_names_and_contents(kind, files):
    data = archive(files, kind)
    with tarfile.open(fileobj=io.BytesIO(data)) as reference:
        expected = {m.name: reference.extractfile(m).read() for m in reference.getmembers()}
    assert contents(data) == expected


def test_long_names_in_the_prefix_of_ustar():
    files = {"d" * 90 + "/" + "e" * 60 + ".jpg": b"1"}
    assert contents(archive(files, tarfile.USTAR_FORMAT)) == files


def test_fractional_times_as_webdataset_writes_them():
    assert contents(archive({"a.jpg": b"1", "b.jpg": b"2"}, mtime=1700000000.25)) == {"a.jpg": b"1", "b.jpg": b"2"}


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (tarfile.SYMTYPE, "other"),
        (tarfile.LNKTYPE, "other"),
        (tarfile.CHRTYPE, "other"),
        (tarfile.FIFOTYPE, "other"),
        (tarfile.DIRTYPE, "folder"),
    ],
)
def test_kinds(kind, found):
    assert [m.kind for m in read(archive({"a": b""}, type=kind))] == [found]


def test_sparse_members_are_no_files():
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**15)}
    assert [m.kind for m in read(archive({"a": b"0\n" + bytes(510)}, pax_headers=sparse))] == ["other"]


def test_the_map_of_a_sparse_member_may_go_on_in_further_blocks():
    """GNU's old form (type S), written by `tar -S`: byte 482 of the header, and 504 of each further block, say so."""
    header = with_field(archive({"a": b"x" * 1000}, tarfile.GNU_FORMAT, type=tarfile.GNUTYPE_SPARSE), 482, b"\1")
    more = [bytearray(BLOCK), bytearray(BLOCK)]
    more[0][504] = 1
    data = header[:BLOCK] + b"".join(more) + header[BLOCK : 3 * BLOCK] + archive({"b": b"y"}, tarfile.GNU_FORMAT)
    assert [(m.name, m.kind) for m in read(data)] == [("a", "other"), ("b", "file")]
    assert contents(data) == {"b": b"y"}
    with pytest.raises(TarError, match="map of a sparse file"):
        read(header[:BLOCK] + 2 * bytes(more[0]) + bytes(100))


def test_every_cut_is_noticed():
    data = archive({"a.jpg": b"x" * 600, "b.jpg": b"y" * 10})
    last = max(m.offset + m.size for m in read(data))
    end = -(-last // BLOCK) * BLOCK
    for size in [0, 1, 511, 512, 600, 1024, 1535, *range(1536, end + 1, 37), end]:
        with pytest.raises(TarError, match=f"ends at byte {size}"):
            read(data[:size])
    for size in (end + BLOCK, end + 2 * BLOCK, len(data)):
        assert len(read(data[:size])) == 2


@pytest.mark.parametrize("hole", [(0, 2048), (1536, 4608), (1536, 4096), (1024, 3072)])
def test_a_hole_of_zeros_does_not_end_the_archive(hole):
    """As downloads leave it that reserve a file's space first."""
    data = bytearray(archive({"a": b"x" * 600, "b": b"y" * 2000, "c": b"z"}))
    data[slice(*hole)] = bytes(hole[1] - hole[0])
    with pytest.raises(TarError, match=r"no header|goes on at \d+"):
        read(bytes(data))


def test_archives_joined_to_one_are_not_read_in_part():
    with pytest.raises(TarError, match="joined"):
        read(archive({"a": b"x" * 600}) + archive({"b": b"y"}))


def test_a_flipped_bit_in_a_header_is_noticed():
    data = bytearray(archive({"a.jpg": b"x" * 600, "b.jpg": b"y"}))
    for place in range(0, 345, 7):
        damaged = bytearray(data)
        damaged[1536 + place] ^= 1
        with pytest.raises(TarError):
            read(bytes(damaged))


def with_field(data: bytes, place: int, value: bytes) -> bytes:
    """The archive with a field of its first header replaced, and the checksum set right."""
    header = bytearray(data[:BLOCK])
    header[place : place + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + data[BLOCK:]


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (b"\xff" + b"\xff" * 11, "negative"),  # -1: a reader that believes it goes round in a circle
        (b"\x80" + b"\xff" * 11, "inside"),
        (b"77777777777\0", "inside"),
        (b"00000000009\0", "no number"),
        (b"-0000000001\0", "no number"),
    ],
)
def test_sizes_that_lead_astray(size, said):
    with pytest.raises(TarError, match=said):
        read(with_field(archive({"a": b"x"}, tarfile.GNU_FORMAT), 124, size))


@pytest.mark.parametrize("size", ["-512", "1e3", "0x10", "9" * 30, "", "１２"])
def test_pax_sizes_that_lead_astray(size):
    record = f"size={size}\n"
    length = next(n for n in range(5, 99) if len(f"{n} {record}".encode()) == n)
    content = f"{length} {record}".encode()
    data = archive({"a": content.ljust(BLOCK, b"\0")}, tarfile.USTAR_FORMAT)[: 2 * BLOCK]
    data = with_field(data, 156, b"x") + archive({"b": b"x" * 10}, tarfile.USTAR_FORMAT)
    with pytest.raises(TarError):
        read(data)


def test_huge_extended_headers_are_not_read(monkeypatch):
    monkeypatch.setattr(tar, "MAX_HEADER_BYTES", 1000)
    with pytest.raises(TarError, match="limit is 1000"):
        read(archive({"a" * 2000: b"x"}))
    assert contents(archive({"a" * 900: b"x"}, tarfile.GNU_FORMAT)) == {"a" * 900: b"x"}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2048))
def test_any_bytes_end_soon(data):
    try:
        found = read(data)
    except TarError:
        return
    assert all(m.offset > 0 and m.offset + m.size <= len(data) for m in found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6))
def test_any_damage_is_found_or_harmless(changes):
    data = bytearray(archive({"a" * 120: b"x" * 600, "ü.jpg": b"y" * 10}, mtime=0.5))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        found = read(bytes(data))
    except TarError:
        return
    assert all(m.offset > 0 and m.offset + m.size <= len(data) for m in found)
