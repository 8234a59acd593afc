"""Reading published weights: what is asked for, once, into its place; everything that does not fit is named."""

import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import save_file

from reimagen_jax.errors import UserError
from reimagen_jax.pretrained.safetensors_reader import (
    CONVOLUTION,
    KERNEL,
    TYPES,
    Checkpoint,
    Source,
    fingerprint,
    load,
    open_checkpoint,
)
from reimagen_jax.sharding import make_mesh

RNG = np.random.default_rng(0)
THEIRS = {
    "linear.weight": RNG.normal(size=(12, 8)).astype(np.float32),
    "linear.bias": RNG.normal(size=12).astype(np.float16),
    "conv.weight": RNG.normal(size=(6, 4, 3, 2)).astype(np.float32),
    "tied.weight": RNG.normal(size=(5, 2)).astype(jnp.bfloat16),
    "scale": np.array(1.5, np.float32),
}
SOURCES = {
    "linear/kernel": Source("linear.weight", KERNEL),
    "linear/bias": Source("linear.bias"),
    "conv/kernel": Source("conv.weight", CONVOLUTION),
    "embed": Source("shared.weight", aliases=("tied.weight",)),
    "scale": Source("scale"),
}
SHAPES = {"linear": {"kernel": (8, 12), "bias": (12,)}, "conv": {"kernel": (3, 2, 4, 6)}, "embed": (5, 2), "scale": ()}


def expected(shapes=SHAPES, dtype=jnp.float32):
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, dtype), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def write_sharded(folder, parts, stem="model"):
    """Several files and their index, as Hugging Face writes them."""
    weight_map = {}
    for i, names in enumerate(parts):
        file = f"{stem}-{i + 1:05}-of-{len(parts):05}.safetensors"
        save_file({name: THEIRS[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    text = json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map})
    (folder / f"{stem}.safetensors.index.json").write_text(text, encoding="utf-8")
    return weight_map


HALVES = (["linear.weight", "scale"], ["linear.bias", "conv.weight", "tied.weight"])


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_file_and_several_read_the_same(tmp_path, stem, dtype):
    (tmp_path / "several").mkdir()
    save_file(THEIRS, tmp_path / f"{stem}.safetensors")
    write_sharded(tmp_path / "several", HALVES, stem)
    for folder in (tmp_path, tmp_path / "several"):
        params = load(open_checkpoint(folder), expected(dtype=dtype), SOURCES.__getitem__)
        for ours, theirs in (
            (params["linear"]["kernel"], THEIRS["linear.weight"].T),
            (params["linear"]["bias"], THEIRS["linear.bias"]),
            (params["conv"]["kernel"], THEIRS["conv.weight"].transpose(2, 3, 1, 0)),
            (params["embed"], THEIRS["tied.weight"]),
            (params["scale"], THEIRS["scale"]),
        ):
            assert ours.dtype == dtype
            np.testing.assert_array_equal(ours, theirs.astype(dtype))


def test_a_checkpoint_is_a_mapping(tmp_path):
    save_file(THEIRS, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.keys() == THEIRS.keys() and len(checkpoint) == len(THEIRS) and "nothing" not in checkpoint
    for name, theirs in THEIRS.items():
        np.testing.assert_array_equal(checkpoint[name], theirs)
        assert checkpoint.shape(name) == theirs.shape
    assert checkpoint.dtype("tied.weight") == "BF16"


def test_every_number_is_read_once_into_its_shard(tmp_path, monkeypatch):
    save_file(THEIRS, tmp_path / "model.safetensors")
    mesh, read, count = make_mesh(fsdp=4), Checkpoint.read, []

    def counted(self, name, index=()):
        array = read(self, name, index)
        count.append((name, array.size))
        return array

    monkeypatch.setattr(Checkpoint, "read", counted)
    specs = {"linear/kernel": P(None, "fsdp"), "conv/kernel": P(None, "data", "fsdp")}
    params = load(
        open_checkpoint(tmp_path),
        expected(),
        SOURCES.__getitem__,
        place=lambda path, _: NamedSharding(mesh, specs.get(path, P())),
    )
    for name, theirs in THEIRS.items():
        assert sum(size for read_name, size in count if read_name == name) == theirs.size
    assert len([name for name, _ in count if name == "linear.weight"]) == 4
    assert params["linear"]["kernel"].addressable_shards[0].data.shape == (8, 3)
    assert params["conv"]["kernel"].addressable_shards[0].data.shape == (3, 1, 1, 6)
    np.testing.assert_array_equal(params["linear"]["kernel"], THEIRS["linear.weight"].T)
    np.testing.assert_array_equal(params["conv"]["kernel"], THEIRS["conv.weight"].transpose(2, 3, 1, 0))


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_large_matrices_are_transposed_whole(tmp_path, dtype):
    theirs = RNG.normal(size=(300, 129)).astype(np.float32)
    save_file({"w": theirs}, tmp_path / "model.safetensors")
    params = load(open_checkpoint(tmp_path), expected({"w": (129, 300)}, dtype), lambda path: Source(path, KERNEL))
    np.testing.assert_array_equal(params["w"], theirs.T.astype(dtype))


def test_a_host_holds_little_more_than_what_stays(tmp_path):
    names, size = [f"w{i}" for i in range(12)], 1 << 20
    save_file({name: np.ones((512, 512), np.float32) for name in names}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    shapes = dict.fromkeys(names, (512, 512))
    tracemalloc.start()
    try:
        params = load(checkpoint, expected(shapes), lambda path: Source(path, KERNEL))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(params)) == 12 * size
    assert peak < (12 + 3) * size  # what stays (CPU devices keep the host's array), and one tensor in the making


def test_all_that_does_not_fit_is_named_at_once(tmp_path):
    theirs = {name: array for name, array in THEIRS.items() if name not in ("scale", "tied.weight")}
    theirs |= {"conv.weight": THEIRS["conv.weight"][:, :2], "stray.weight": np.ones(2), "head.weight": np.ones(2)}
    save_file(jax.tree.map(np.ascontiguousarray, theirs), tmp_path / "model.safetensors")
    with pytest.raises(UserError) as caught:
        load(open_checkpoint(tmp_path), expected(), SOURCES.__getitem__, ignore=(r"^head\.",))
    for part in (
        "model.safetensors",
        "scale is missing",
        "shared.weight is missing",
        "conv.weight has shape (6, 2, 3, 2), not (6, 4, 3, 2)",
        "stray.weight is unknown",
    ):
        assert part in str(caught.value)
    assert "head.weight" not in str(caught.value) and "linear" not in str(caught.value)


def test_broken_sets_are_refused_by_name(tmp_path):
    weight_map = write_sharded(tmp_path, HALVES)
    index = tmp_path / "model.safetensors.index.json"
    first, second = sorted(set(weight_map.values()))

    def refuses(message, weight_map=weight_map):
        index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            open_checkpoint(tmp_path)

    refuses("only safetensors files beside it", weight_map | {"scale": "../outside.safetensors"})
    refuses("only safetensors files beside it", weight_map | {"scale": "pytorch_model.bin"})
    refuses("no weight_map", {})
    whole = (tmp_path / second).read_bytes()
    (tmp_path / second).write_bytes(whole[:-5])
    refuses(second)
    save_file({name: THEIRS[name] for name in (*HALVES[1], "scale")}, tmp_path / second)
    refuses("scale stands in both")
    (tmp_path / first).unlink()
    refuses(f"lacks {first}")
    index.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"index\.json cannot be read"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("change", [{"tied": "second"}, {"scale": None}, {"scale": "second"}, {"gone": "first"}])
def test_what_the_files_hold_counts_whatever_their_index_says(tmp_path, change):
    """Published indexes list tied tensors that no file has, and leave out tensors that one has."""
    weight_map = write_sharded(tmp_path, HALVES)
    first, second = sorted(set(weight_map.values()))
    weight_map |= {name: {"first": first, "second": second}.get(file) for name, file in change.items()}
    listed = {name: file for name, file in weight_map.items() if file is not None}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}), encoding="utf-8")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.keys() == THEIRS.keys()
    params = load(checkpoint, expected(), SOURCES.__getitem__)
    np.testing.assert_array_equal(params["linear"]["kernel"], THEIRS["linear.weight"].T)
    missing = {**SOURCES, "scale": Source("gone")}
    with pytest.raises(UserError, match=r"gone is missing; scale is unknown"):
        load(checkpoint, expected(), missing.__getitem__)


def test_tensors_outside_of_the_network_are_passed_over(tmp_path):
    save_file(THEIRS | {"lm_head.weight": np.ones(2, np.int8)}, tmp_path / "model.safetensors")
    params = load(open_checkpoint(tmp_path), expected(), SOURCES.__getitem__)
    np.testing.assert_array_equal(params["scale"], THEIRS["scale"])
    for name in ("linear.scale_weight", "linear.lora_A.weight", "conv.bias"):
        save_file(THEIRS | {name: np.ones(2, np.float32)}, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=f"{name} is unknown"):
            load(open_checkpoint(tmp_path), expected(), SOURCES.__getitem__)


def write_raw(file, header, data=b"", length=None):
    """A file as its bytes are, sound or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def entry(dtype="F32", shape=(1,), begin=0, end=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", ["F64", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_all_types_of_weights_are_read(tmp_path, dtype):
    theirs = np.array([[1.5, -0.25, 2.0], [0.0, -3.0, 8.0]]).astype(TYPES[dtype])
    write_raw(tmp_path / "x.safetensors", {"w": entry(dtype, (2, 3), 0, theirs.nbytes)}, theirs.tobytes())
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(checkpoint["w"].astype(np.float32), theirs.astype(np.float32))
    params = load(checkpoint, expected({"w": (3, 2)}), lambda path: Source(path, KERNEL))
    np.testing.assert_array_equal(params["w"], theirs.astype(np.float32).T)
    assert len(fingerprint(checkpoint, ["w"])) == 64


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("I8", 8), ("U8", 8), ("U16", 16), ("I64", 64), ("BOOL", 8), ("F8_E8M0", 8), ("F4", 4), ("C64", 64)],
)
def test_other_types_are_refused_by_name_before_anything_is_read(tmp_path, dtype, size):
    write_raw(tmp_path / "x.safetensors", {"layer.weight": entry(dtype, (8,), 0, size)}, bytes(size))
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    message = rf"layer\.weight is of type {dtype}, but weights are read as F64, F32"
    with pytest.raises(UserError, match=message):
        load(checkpoint, expected({"w": (8,)}), lambda path: Source("layer.weight"))
    with pytest.raises(UserError, match=message):
        checkpoint["layer.weight"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (({}, b"", 10**15), "its header is said to have 1,000,000,000,000,000 bytes, the file has"),
        (({}, b" " * 2**26, 2**26), "at most 33,554,432 are read"),
        ((b"", b"", None), "Expecting value"),
        ((b"[]", b"", None), "not a table"),
        ((b'{"\xff": 1}', b"", None), "decode"),
        ((b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", None), "recursion"),
        (({"a": entry(), "b": entry()}, bytes(4), None), "offset"),
        (({"a": entry(shape=(3,))}, bytes(4), None), "shape"),
        (({"a": entry(shape=(-1,))}, bytes(4), None), "-1"),
        (({"a": entry(begin=-4)}, bytes(4), None), "-4"),
        (({"a": entry(begin=8, end=4)}, bytes(8), None), "offset"),
        (({"a": entry(shape=(2**40, 2**40))}, bytes(4), None), "overflow"),
        (({"a": entry()}, bytes(3), None), "cannot be read"),
        (({"a": entry()}, bytes(5), None), "cannot be read"),
        (({"w.weight": entry("I4", (8,))}, bytes(4), None), r"w\.weight is of type I4"),
        (({"a": {"dtype": "F32"}}, b"", None), "missing field"),
        (({"a": 7}, b"", None), "cannot be read"),
        ((b'{"a": %b, "a": %b}' % ((json.dumps(entry()).encode(),) * 2), bytes(4), None), "a stands there twice"),
    ],
)
def test_damaged_headers_are_refused_in_little_memory(tmp_path, content, message):
    write_raw(tmp_path / "x.safetensors", *content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message) as caught:
            open_checkpoint(tmp_path / "x.safetensors")
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()
    assert "x.safetensors" in str(caught.value)


def test_an_empty_tensor_of_many_rows_takes_no_memory(tmp_path):
    write_raw(tmp_path / "x.safetensors", {"a": entry(shape=(2**62, 0), end=0)})
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="a has shape"):
        load(checkpoint, expected({"a": (3,)}), Source)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("to", [jnp.float32, jnp.bfloat16])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, dtype, to):
    theirs = np.ones((300, 400), np.float32)
    save_file({"good.weight": theirs, "bad.weight": theirs.astype(TYPES[dtype])}, tmp_path / "x.safetensors")
    shapes = {"good": (400, 300), "bad": (400, 300)}

    def read():
        return load(open_checkpoint(tmp_path), expected(shapes, to), lambda path: Source(f"{path}.weight", KERNEL))

    for value in (np.nan, -np.inf) if dtype != "F8_E4M3" else (np.nan,):
        theirs[299, 399] = value
        tensors = {"good.weight": np.ones_like(theirs), "bad.weight": theirs.astype(TYPES[dtype])}
        raw, header = b"", {}
        for name, array in tensors.items():
            kind = dtype if name == "bad.weight" else "F32"
            header[name] = entry(kind, array.shape, len(raw), len(raw) + array.nbytes)
            raw += array.tobytes()
        write_raw(tmp_path / "model.safetensors", header, raw)
        with pytest.raises(
            UserError, match=r"model\.safetensors: 1 of the 120,000 numbers of bad\.weight are not finite"
        ):
            read()


def test_a_number_that_the_precision_cannot_hold_is_refused(tmp_path):
    save_file({"w": np.array([1e300, 1.0])}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="w are not finite"):
        load(open_checkpoint(tmp_path), expected({"w": (2,)}), Source)


def test_pickles_are_refused_and_variants_found(tmp_path):
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(UserError, match=r"pytorch_model\.bin.*may run code.*save_pretrained"):
        open_checkpoint(tmp_path)
    save_file(THEIRS, tmp_path / "model.fp16.safetensors")
    assert list(open_checkpoint(tmp_path).files) == ["model.fp16.safetensors"]
    save_file(THEIRS, tmp_path / "model.ema.safetensors")
    with pytest.raises(UserError, match="several variants"):
        open_checkpoint(tmp_path)
    save_file(THEIRS, tmp_path / "model.safetensors")
    assert list(open_checkpoint(tmp_path).files) == ["model.safetensors"]


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("model.safetensors.index.fp16.json", "model.fp16-{}"),
        ("model.fp16.safetensors.index.json", "model.fp16-{}"),
        ("diffusion_pytorch_model.fp16.safetensors.index.json", "diffusion_pytorch_model.fp16-{}"),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model-{}.fp16"),
    ],
)
def test_shards_of_a_variant_are_found(tmp_path, index, shard):
    weight_map = {}
    for i, names in enumerate(HALVES, 1):
        file = shard.format(f"{i:05}-of-00002") + ".safetensors"
        save_file({name: THEIRS[name] for name in names}, tmp_path / file)
        weight_map |= dict.fromkeys(names, file)
    with pytest.raises(UserError, match="no index of such files"):
        open_checkpoint(tmp_path)
    (tmp_path / index).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    assert open_checkpoint(tmp_path).keys() == THEIRS.keys()


def test_a_sharded_variant_is_found(tmp_path):
    weight_map = write_sharded(tmp_path, HALVES, "model")
    renamed = {name: file.replace("model-", "model.fp16-") for name, file in weight_map.items()}
    for name, file in weight_map.items():
        if (tmp_path / file).exists():
            (tmp_path / file).rename(tmp_path / renamed[name])
    (tmp_path / "model.safetensors.index.json").unlink()
    text = json.dumps({"weight_map": renamed})
    (tmp_path / "model.safetensors.index.fp16.json").write_text(text, encoding="utf-8")
    assert open_checkpoint(tmp_path).keys() == THEIRS.keys()


def test_a_fingerprint_is_of_the_numbers(tmp_path):
    (tmp_path / "several").mkdir()
    save_file(THEIRS, tmp_path / "model.safetensors")
    write_sharded(tmp_path / "several", HALVES)
    names = list(THEIRS)
    reference = fingerprint(open_checkpoint(tmp_path), names)
    assert fingerprint(open_checkpoint(tmp_path / "several"), names[::-1]) == reference
    assert fingerprint(open_checkpoint(tmp_path), names[:-1]) != reference
    for name in names:
        changed = THEIRS | {name: np.asarray(THEIRS[name] * THEIRS[name].dtype.type(2))}
        save_file(changed, tmp_path / f"{name}.safetensors")
        assert fingerprint(open_checkpoint(tmp_path / f"{name}.safetensors"), names) != reference
