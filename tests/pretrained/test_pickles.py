"""PyTorch's files: what is in them is read, and nothing of them is run, whatever they say."""

import io
import pickle
import pickletools
import zipfile

import numpy as np
import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.pretrained import pickles
from reimagen_jax.pretrained.pickles import PickleCheckpoint, Skipped, Tensor, load, state_dict
from reimagen_jax.pretrained.safetensors_reader import fingerprint
from tests.pretrained.torch_files import Call, Named, Stored, tensor, weights, write, write_old

ARRAYS = {
    "module.a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "module.a.bias": np.linspace(0, 1, 3, dtype=np.float16),
    "module.tracked": np.array(7, np.int64),
    "other.b": np.zeros((0, 3), np.float32),
}


def test_tensors_are_read_under_their_names(tmp_path):
    args = Call("argparse", "Namespace", attributes={"lr": 1.0, "name": "x"})
    path = weights(tmp_path / "w.pth.tar", ARRAYS, epoch=3, args=args, arch="vit_base", loss=[1.5, None, True])
    content = load(path)
    assert (content["epoch"], content["arch"], content["loss"]) == (3, "vit_base", [1.5, None, True])
    assert isinstance(content["args"], Skipped) and not vars(content["args"])
    named = state_dict(path)
    for name, array in ARRAYS.items():
        found = named[name].read()
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype and named[name].shape == array.shape
    assert set(state_dict(path, prefix="module.")) == {"a.weight", "a.bias", "tracked"}
    checkpoint = PickleCheckpoint(path, named)
    assert checkpoint.dtype("module.a.bias") == "F16" and checkpoint.shape("module.a.weight") == (3, 4)
    np.testing.assert_array_equal(checkpoint.read("module.a.weight", (slice(1, 3), slice(0, 2))), [[4, 5], [8, 9]])
    assert "module.a.bias" in checkpoint and len(checkpoint) == 4 and list(checkpoint.files) == ["w.pth.tar"]
    assert len(fingerprint(checkpoint, list(checkpoint))) == 64


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_any_protocol_is_read(protocol, tmp_path):
    stored = Stored(np.arange(4, dtype=np.float32), "0")
    content = {"a": tensor(stored, (2, 2), (2, 1)), "b": [1, 2**40, -1, 0.5, (1, 2, 3, 4), ()], "c": "é" * 300}
    found = load(write(tmp_path / "w.pt", content, protocol=protocol))
    np.testing.assert_array_equal(found["a"].read(), [[0, 1], [2, 3]])
    assert found["b"] == content["b"] and found["c"] == content["c"]


def test_views_of_one_storage(tmp_path):
    """Transposed, cut and tied tensors, as PyTorch keeps them."""
    stored = Stored(np.arange(12, dtype=np.float32), "0")
    content = {"turned": tensor(stored, (4, 3), (1, 4)), "cut": tensor(stored, (2, 2), (4, 1), 5)}
    found = load(write(tmp_path / "w.pt", content))
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(found["turned"].read(), whole.T)
    np.testing.assert_array_equal(found["cut"].read(), whole[1:3, 1:3])
    np.testing.assert_array_equal(found["turned"].rows(1, 3).read(), whole.T[1:3])
    one = load(write(tmp_path / "one.pt", {"x": tensor(stored, (1, 12, 1), (12, 1, 1))}))["x"].squeezed()
    np.testing.assert_array_equal(one.read(), np.arange(12))
    with pytest.raises(UserError, match="no rows 1 to 5"):
        found["turned"].rows(1, 5)


def test_nothing_is_run(tmp_path, monkeypatch):
    """Not what it calls when it is read, nor what it would call later, by any protocol, at any place."""
    ran = []
    monkeypatch.setattr("os.system", ran.append)
    bad = [
        Call("posix", "system", "echo"),
        Call("os", "system", "echo"),
        Call("builtins", "eval", "1"),
        Call("torch._utils", "_rebuild_tensor", 1),
        Named("builtins", "exec"),
        Call("collections", "OrderedDict", attributes={"x": Call("os", "system", "echo")}),
        Call("argparse", "Namespace", attributes={"x": Call("os", "system", "echo")}),
        Call("torch", "FloatStorage", 3),
    ]
    for protocol in (2, 4):
        for i, one in enumerate(bad):
            with pytest.raises(UserError, match=r"would run|damaged"):
                load(write(tmp_path / f"{protocol}{i}.pt", {"state_dict": {"a": [one]}}, protocol=protocol))
    with pytest.raises(UserError, match=r"would run os\.system when it is read"):
        load(write(tmp_path / "w.pt", [bad[1]]))
    assert ran == []


def test_every_instruction_is_known_or_refused_by_name(tmp_path):
    """None of Python's own machine is reached: what is not in the list cannot be meant otherwise."""
    refused = []
    for opcode in pickletools.opcodes:
        machine = pickles._Machine(tmp_path / "w.pt", "archive/", {})
        machine.stack = [1, 2]
        try:
            machine.step(opcode.name, None)
        except UserError as error:
            refused += [opcode.name] if "has the instruction" in str(error) else []
        except (AttributeError, TypeError, ValueError, LookupError):
            pass
    assert {"INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BYTEARRAY8", "NEXT_BUFFER"} <= set(refused)
    assert not {"REDUCE", "GLOBAL", "BUILD", "BINPERSID", "NEWOBJ", "STACK_GLOBAL"} & set(refused)


@pytest.mark.parametrize(
    "shape,strides,offset",
    [
        ((5,), (1,), 0),
        ((2, 2), (4, 1), 0),
        ((4,), (1,), 1),
        ((10**9,), (0,), 0),
        ((2,), (-1,), 1),
        ((-1,), (1,), 0),
        ((2, 2), (1,), 0),
        ((2**63,), (1,), 0),
        ((2.0,), (1,), 0),
        ((True,), (1,), 0),
        ((2,), (1,), -1),
        ("ab", (1, 1), 0),
    ],
    ids=[
        "long",
        "wide",
        "late",
        "repeated",
        "backwards",
        "negative",
        "uneven",
        "huge",
        "float",
        "bool",
        "before",
        "text",
    ],
)
def test_a_tensor_lies_in_its_storage(shape, strides, offset, tmp_path):
    stored = Stored(np.arange(4, dtype=np.float32), "0")
    with pytest.raises(UserError, match="damaged"):
        load(write(tmp_path / "w.pt", {"a": tensor(stored, shape, strides, offset)}))


def nested(depth):
    """A tuple of 2^depth values in some bytes: never to be hashed, compared or told."""
    value = (1,)
    for _ in range(depth):
        value = (value, value)
    return value


NESTED = b"K\x01\x85" + b"q\x00h\x00\x86" * 60
"""The same as instructions."""


def test_a_small_file_asks_for_little(tmp_path):
    stored = Stored(np.arange(4, dtype=np.float32), "0")
    for content in (
        {"a": tensor(Stored(np.arange(4, dtype=np.float32), "0", count=2**40), (2**40,), (1,))},
        {"a": tensor(stored, nested(60), (1,))},
        {"a": tensor(stored, (2,), (1,), nested(60))},
    ):
        with pytest.raises(UserError, match=r"damaged|too few"):
            load(write(tmp_path / "w.pt", content))
    with pytest.raises(UserError, match="only texts and numbers"):
        load(write(tmp_path / "w.pt", {}, **{"data.pkl": b"\x80\x02}" + NESTED + b"K\x01s."}))
    with pytest.raises(UserError, match="at most"):
        load(write(tmp_path / "w.pt", {}, **{"data.pkl": b"\x80\x02" + b"N0" * 2**24 + b"N."}))
    huge = b"\x80\x02\x8e" + (2**40).to_bytes(8, "little") + b"N."
    with pytest.raises(UserError, match="damaged"):
        load(write(tmp_path / "w.pt", {}, **{"data.pkl": huge}))
    place = b"\x80\x02Nr\xff\xff\xff\x7f."  # a memo of two thousand million places, in Python's own machine
    assert load(write(tmp_path / "w.pt", {}, **{"data.pkl": place})) is None
    with pytest.raises(UserError, match="compressed"):
        load(write(tmp_path / "w.pt", {"a": tensor(stored, (4,), (1,))}, compression=zipfile.ZIP_DEFLATED))


def test_damaged_files_are_named(tmp_path):
    good = weights(tmp_path / "good.pt", ARRAYS).read_bytes()
    rng = np.random.default_rng(0)
    for i in range(300):
        damaged = bytearray(good[: rng.integers(len(good))] if i % 3 == 0 else good)
        for place in rng.integers(len(damaged), size=3) if len(damaged) else ():
            damaged[place] = rng.integers(256)
        path = tmp_path / "damaged.pt"
        path.write_bytes(damaged)
        try:
            for found in state_dict(path).values():
                found.read()
        except UserError as error:
            assert "damaged.pt" in str(error)


@pytest.mark.parametrize(
    "content,said",
    [
        (b"no archive", "neither a zip archive"),
        ({"x": b"1"}, "holds 0 pickles"),
        ({"a/data.pkl": b"N.", "b/data.pkl": b"N."}, "holds 2 pickles"),
        ({"a/data.pkl": b"\x80\x02N"}, "damaged|no end"),
        ({"a/data.pkl": b"."}, "damaged"),
        ({"a/data.pkl": b"N.", "a/byteorder": b"big"}, "highest byte"),
        ({"a/data.pkl": pickle.dumps([1], 2)}, "no table of tensors"),
        ({"a/data.pkl": pickle.dumps({"epoch": 1}, 2)}, "no tensors called ...: it has epoch"),
    ],
    ids=["text", "no-pickle", "two", "no-end", "empty", "order", "list", "no-tensors"],
)
def test_other_files_are_refused(content, said, tmp_path):
    path = tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=said):
        state_dict(path)
    with pytest.raises(UserError, match="not found"):
        load(tmp_path / "missing.pt")


def test_a_storage_that_is_missing_or_too_short_is_named(tmp_path):
    stored = Stored(np.arange(4, dtype=np.float32), "0")
    content = {"a": tensor(stored, (4,), (1,))}
    with pytest.raises(UserError, match="too few"):
        load(write(tmp_path / "w.pt", content, **{"data/0": b"1234"}))
    path = write(tmp_path / "w.pt", content)
    found = load(path)["a"]
    assert isinstance(found, Tensor)
    path.write_bytes(path.read_bytes().replace(stored.values.tobytes(), bytes(16)))
    with pytest.raises(UserError, match="is the file whole"):
        found.read()


def old(path, arrays=ARRAYS, **others):
    """As PyTorch wrote weights before version 1.6."""
    table = {
        name: tensor(Stored(array, str(i)), array.shape, tuple(step // array.itemsize for step in array.strides))
        for i, (name, array) in enumerate(arrays.items())
    }
    return write_old(path, table, **others)


def test_files_from_before_version_1_6_are_read(tmp_path):
    named = state_dict(old(tmp_path / "w.pth"))
    for name, array in ARRAYS.items():
        found = named[name].read()
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
    new = PickleCheckpoint(tmp_path / "n.pt", state_dict(weights(tmp_path / "n.pt", ARRAYS)))
    assert fingerprint(PickleCheckpoint(tmp_path / "w.pth", named), list(named)) == fingerprint(new, list(new))


@pytest.mark.parametrize(
    "change,said",
    [
        ({"mark": 7}, "neither a zip archive"),
        ({"version": 1000}, "is of version 1000"),
        ({"system": {"little_endian": False}}, "highest byte"),
        ({"system": 3}, "highest byte"),
        ({"names": ["0"]}, "does not hold the storages"),
        ({"names": "0123"}, "does not hold the storages"),
        ({"names": ["0", "1", "2", "2"]}, "does not hold the storages"),
        ({"lengths": {"1": 2}}, "storage 1 is not whole"),
        ({"view": ("0", 0, 1)}, "damaged"),
    ],
    ids=str,
)
def test_old_files_of_another_kind_are_refused(change, said, tmp_path):
    with pytest.raises(UserError, match=said):
        load(old(tmp_path / "w.pth", **change))


def test_nothing_of_an_old_file_is_run_and_damaged_ones_are_named(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr("os.system", ran.append)
    for place in ("content", "mark", "system", "names"):
        call = Call("os", "system", "echo")
        path = tmp_path / f"{place}.pth"
        with pytest.raises(UserError, match=r"would run os\.system|neither a zip archive"):
            load(write_old(path, [call]) if place == "content" else old(path, **{place: call}))
    assert ran == []
    good, rng = old(tmp_path / "good.pth").read_bytes(), np.random.default_rng(0)
    for i in range(200):
        damaged = bytearray(good[: rng.integers(len(good))] if i % 3 == 0 else good)
        for place in rng.integers(len(damaged), size=3) if len(damaged) else ():
            damaged[place] = rng.integers(256)
        path = tmp_path / "damaged.pth"
        path.write_bytes(damaged)
        try:
            for found in state_dict(path).values():
                found.read()
        except UserError as error:
            assert "damaged.pth" in str(error)


def test_what_an_old_file_has_lost_since_is_named(tmp_path):
    path = old(tmp_path / "w.pth")
    found = load(path)["module.a.weight"]
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserError, match="is the file whole"):
        found.read()


def _raw(path, program, members=None, compression=zipfile.ZIP_STORED, order=None):
    """An archive of PyTorch's layout with a pickle written by hand."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program, compression)
        for name, content in (members or {}).items():
            archive.writestr(f"a/data/{name}", content)
        if order is not None:
            archive.writestr("a/byteorder", order, zipfile.ZIP_BZIP2)
    return path


BEGIN, TWICE = b"\x80\x04", b"q\x00h\x00\x86"
SIZE = b"ctorch\nSize\nq\x02"
ENDLESS = {
    "a name of nested tuples": BEGIN + b")" + TWICE * 60 + b"\x8c\x01x\x93.",
    "a deep name": BEGIN + b")" + b"\x85" * 100_000 + b"\x8c\x01x\x93.",
    "calls that copy a list": BEGIN
    + b"]("
    + b"K\x01" * 50_000
    + b"eq\x00\x85q\x01"
    + SIZE
    + b"h\x02h\x01R" * 50_000
    + b".",
    "calls that copy their values": BEGIN + b"(" + b"N" * 50_000 + b"tq\x01" + SIZE + b"h\x02h\x01R" * 50_000 + b".",
    "a table's key of many digits": BEGIN + b"}\x8b\xb8\x0b\x00\x00" + b"\x7f" * 3000 + b"K\x01s.",
    "more values than weights have": BEGIN + b"(" + b"}" * (pickles.MOST_INSTRUCTIONS + 1) + b"t.",
}


@pytest.mark.parametrize("program", ENDLESS.values(), ids=ENDLESS.keys())
def test_short_pickles_that_ask_for_time_or_memory_without_end_are_refused(program, tmp_path):
    with pytest.raises(UserError) as error:
        state_dict(_raw(tmp_path / "w.pt", program))
    assert len(str(error.value)) < 500


def test_marks_take_time_by_their_number_alone(tmp_path):
    """Not by all that lies below them: the steps that are taken are counted, not the time."""
    machine = pickles._Machine(tmp_path / "w.pt")
    found = machine.run(BEGIN + b"N" * 100_000 + b"(t" * 100_000 + b"\x85.")
    assert found == ((),) and len(machine.stack) == 199_999


def test_what_unpacks_to_more_than_is_asked_for_is_refused(tmp_path):
    program = pickle.dumps({"a": 1}, protocol=2)
    with pytest.raises(UserError, match="a/byteorder is compressed in a way"):
        load(_raw(tmp_path / "w.pt", program, order=b"little" + bytes(2**24)))
    for way in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(UserError, match=r"a/data\.pkl is compressed in a way"):
            load(_raw(tmp_path / "w.pt", program, compression=way))
    assert load(_raw(tmp_path / "w.pt", program, compression=zipfile.ZIP_DEFLATED)) == {"a": 1}


@pytest.mark.parametrize(
    "version",
    [BEGIN + b")" + TWICE * 60 + b".", BEGIN + b")" + b"\x85" * 100_000 + b".", pickle.dumps(2**30_000, 2)],
    ids=["nested", "deep", "of many digits"],
)
def test_a_version_that_is_endless_to_tell_is_refused(version, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps(pickles.OLD_MARK, 2) + version + pickle.dumps({"little_endian": True}, 2))
    with pytest.raises(UserError, match="is of version unknown, not 1001"):
        load(path)


def test_tensors_whose_steps_or_emptiness_no_array_could_have(tmp_path):
    stored = Stored(np.arange(4, dtype=np.float32), "0")
    one = load(write(tmp_path / "one.pt", {"w": tensor(stored, (1, 1), (2**61, 2**61))}))["w"]
    np.testing.assert_array_equal(one.read(), [[0.0]])  # along one value no step is taken
    for shape in ((0, 2**61), (0, 2**40, 2**40)):
        with pytest.raises(UserError, match="does not lie in its storage"):
            load(write(tmp_path / "none.pt", {"w": tensor(stored, shape, (1,) * len(shape))}))
    for bad in (tensor(Stored(stored.values, "k" * 5000), (4,), (1,)), tensor(stored, (1,) * 5000, (1,) * 5000)):
        with pytest.raises(UserError) as error:
            load(write(tmp_path / "long.pt", {"w": bad}))
        assert len(str(error.value)) < 500
