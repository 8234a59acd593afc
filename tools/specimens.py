"""A small specimen of everything that the program reads or writes: for fuzz.py, flip.py and kill.py.

`write` fills a folder in some seconds. Weights are random and networks the smallest there are, so that nothing is
trained and hardly anything compiled.
"""

import dataclasses
import functools
import io
import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sentencepiece
import tokenizers
from flax.traverse_util import flatten_dict
from PIL import Image, ImageCms, PngImagePlugin
from safetensors.numpy import save_file

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.data.preparing import prepare_records
from reimagen_jax.data.records import ImageText, write_records
from reimagen_jax.data.sources import Reading, open_source
from reimagen_jax.data.sources.tfrecord import masked_crc
from reimagen_jax.encoders import clip, dual, t5, text_embeddings
from reimagen_jax.encoders.settings import (
    DualConfig,
    FrozenTextConfig,
    ImageTowerConfig,
    JointConfig,
    LpipsConfig,
    RepresentationConfig,
    TextConfig,
    TextTowerConfig,
    Tower,
)
from reimagen_jax.evaluation.rater import Rater, shapes
from reimagen_jax.files import atomic_dir, signed
from reimagen_jax.inference.export import export
from reimagen_jax.inference.origin import ModelOrigin, NeighbourOrigin, Origin, StageOrigin, StartOrigin, save_image
from reimagen_jax.nets.settings import LatentMLPConfig, Level, PatchGANConfig, UNetConfig, VGGConfig, VQConfig
from reimagen_jax.retrieval.building import Dense
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import build_triples
from reimagen_jax.systems import kinds
from reimagen_jax.systems.mage.settings import FROZEN as FROZEN_TOKENIZER
from reimagen_jax.systems.mage.settings import AdversarialConfig, MageConfig, PerceptualConfig, VQSystemConfig
from reimagen_jax.systems.rater.settings import RaterConfig
from reimagen_jax.systems.rcg.settings import FROZEN as FROZEN_ENCODER
from reimagen_jax.systems.rcg.settings import PicturesConfig, RdmConfig
from reimagen_jax.systems.reimagen.settings import ReImagenConfig, TriplesConfig
from reimagen_jax.systems.settings import RecordsConfig
from reimagen_jax.systems.unclip.settings import FROZEN as FROZEN_CLIP
from reimagen_jax.systems.unclip.settings import TOKENS, ARPriorConfig, DecoderConfig, PairsConfig, PriorConfig
from reimagen_jax.training.checkpoint import Checkpoints, settle
from reimagen_jax.training.state import TrainState, init_state
from reimagen_jax.training.step import make_optimizer

CAPTIONS = ("a red cat on a mat", "two dogs at the beach", "İstanbul at night, 夜", "a café", "one red bird", "a boat")
EXPERIMENT = Experiment(
    name="smallest",
    system=ReImagenConfig(
        resolution=8,
        unet=UNetConfig(levels=(Level(8, 1, neighbour_attention=True),), patch=4, head_width=8, groups=2, cond_width=8),
        text=TextConfig(max_bytes=8, width=8, depth=1, head_width=8),
    ),
    data=TriplesConfig(batch_size=2, num_neighbours=2, threads=1),
    train=TrainConfig(num_steps=2, warmup_steps=0, sample_every=0),
)
_TOWER = Tower(4, 1, 2, 8)
JOINT = JointConfig(8, TextTowerConfig(_TOWER, max_tokens=8), ImageTowerConfig(_TOWER, 8, 4))
IMAGES = RepresentationConfig(_TOWER, 8, 4, head_width=8, width=4)
_PIXELS = UNetConfig(levels=(Level(8, 1),), patch=4, head_width=8, groups=2, cond_width=8, **TOKENS)
UNCLIP = {
    name: Experiment(
        f"smallest_{name}",
        system,
        PairsConfig(batch_size=2, threads=1),
        InitConfig(adopt=True),
        dataclasses.replace(EXPERIMENT.train, rates=(FROZEN_CLIP,)),
    )
    for name, system in {
        "prior": PriorConfig(clip=JOINT, tower=_TOWER),
        "ar_prior": ARPriorConfig(clip=JOINT, tower=_TOWER, dims=2, buckets=4),
        "decoder": DecoderConfig(resolution=8, clip=JOINT, unet=_PIXELS, token_width=4),
    }.items()
}
"""The smallest of unCLIP's, by the folders that their weights are in."""
PRIOR = UNCLIP["prior"]
_VQ = VQConfig(widths=(8,), blocks=1, patch=4, groups=2, codes=4, code_width=2)
_ADVERSARY = AdversarialConfig(weight=0.5, network=PatchGANConfig(width=2, depth=1, groups=2))
VQ = Experiment(
    "smallest_vq",
    VQSystemConfig(
        resolution=8, vq=_VQ, adversarial=_ADVERSARY, perceptual=PerceptualConfig(weight=1.0, encoder=IMAGES)
    ),
    RecordsConfig(batch_size=2, threads=1),
    InitConfig(adopt=True),
    EXPERIMENT.train,
)
"""A tokenizer that learns by features and against a discriminator, of which its weights have neither."""
MAGE = Experiment(
    "smallest_mage",
    MageConfig(resolution=8, vq=_VQ, encoder=IMAGES, tower=_TOWER, decoder=_TOWER),
    PicturesConfig(batch_size=2, threads=1),
    InitConfig(adopt=True),
    dataclasses.replace(EXPERIMENT.train, rates=(FROZEN_TOKENIZER,)),
)
RCG = {
    "vq": dataclasses.replace(VQ, system=VQ.system.opened),
    "mage": MAGE,
    "rdm": Experiment(
        "smallest_rdm",
        RdmConfig(encoder=IMAGES, mlp=LatentMLPConfig(width=4, depth=1, time_width=4, class_width=4)),
        PicturesConfig(batch_size=2, threads=1),
        InitConfig(adopt=True),
        dataclasses.replace(EXPERIMENT.train, rates=(FROZEN_ENCODER,)),
    ),
}
"""The smallest of RCG's, by the folders that their weights are in."""
LPIPS = LpipsConfig(VGGConfig((2, 2), (1, 1)), resolution=8)
FROZEN = FrozenTextConfig(encoder="t5", fingerprint="words", width=4, max_tokens=6)
T5 = {"model_type": "t5", "feed_forward_proj": "gated-gelu", "vocab_size": 1024}
T5 |= {"d_model": 8, "d_kv": 4, "num_heads": 2, "d_ff": 8, "num_layers": 1}
CLIP_TOWER = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 1}
CLIP = {"model_type": "clip", "projection_dim": 8}
CLIP |= {"text_config": CLIP_TOWER | {"vocab_size": 1024, "max_position_embeddings": 16}}
CLIP |= {"vision_config": CLIP_TOWER | {"image_size": 16, "patch_size": 8}}


def write(root: Path) -> None:
    """All specimens, each in a folder of its own under `root`."""
    write_pictures(root / "pictures")
    write_sets(root / "sets")
    write_sources(root / "sources")
    write_knowledge(root)
    write_weights(root)
    write_published(root)
    write_texts(root)


def picture(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    """Noise."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), np.uint8)
    if mode in ("1", "P", "L"):
        return Image.fromarray(pixels[:, :, 0], "L").convert(mode)
    return Image.fromarray(pixels, mode=mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_pictures(folder: Path) -> None:
    """Every format that is read, and TIFF; with EXIF, colour profile, text, transparency, palette, animation."""
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    about = {"exif": exif, "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "hello", zip=True)
    text.add_itxt("Title", "hällo")
    rgb, size = picture(0, (12, 9)), (12, 9)
    frames = {"save_all": True, "append_images": [picture(1, size)]}
    grey16 = Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (9, 12)).astype(np.uint16))
    files = {
        "rgb.png": encoded(rgb, pnginfo=text, **about),
        "rgba.png": encoded(picture(2, size, "RGBA")),
        "palette.png": encoded(picture(3, size, "P"), transparency=3),
        "bit.png": encoded(picture(4, size, "1")),
        "grey16.png": encoded(grey16),
        "animated.png": encoded(rgb, **frames),
        "plain.jpg": encoded(rgb, "JPEG", **about),
        "progressive.jpg": encoded(picture(5, (40, 30)), "JPEG", progressive=True, quality=80),
        "cmyk.jpg": encoded(picture(6, size, "CMYK"), "JPEG"),
        "stereo.jpg": encoded(rgb, "MPO", **frames),
        "animated.gif": encoded(rgb.convert("P"), "GIF", **frames, transparency=0),
        "rgb.bmp": encoded(rgb, "BMP"),
        "rgba.bmp": encoded(picture(7, size, "RGBA"), "BMP"),
        "palette.bmp": encoded(picture(8, size, "P"), "BMP"),
        "deflate.tiff": encoded(rgb, "TIFF", compression="tiff_deflate"),
        "lossy.webp": encoded(rgb, "WEBP", **about),
        "lossless.webp": encoded(picture(9, size, "RGBA"), "WEBP", lossless=True),
        "animated.webp": encoded(rgb, "WEBP", **frames),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)


def write_sets(folder: Path) -> None:
    """Sets of pictures, and statistics of one, as `evaluate fid` reads them."""
    pictures = {f"{seed}.png": picture(seed) for seed in range(4)}
    (folder / "drawn").mkdir(parents=True)
    for name, image in pictures.items():
        image.save(folder / "drawn" / name)
    _write_text(folder / "drawn" / "sample.json", json.dumps({"images": [{"file": name} for name in pictures]}))
    with zipfile.ZipFile(folder / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, image in pictures.items():
            archive.writestr(name, encoded(image))
    with tarfile.open(folder / "p.tar", "w") as archive:
        for name in pictures:
            archive.add(folder / "drawn" / name, name)
    np.savez(folder / "p.npz", arr_0=np.stack([np.asarray(image) for image in pictures.values()]))
    np.savez_compressed(folder / "s.npz", mu=np.zeros(3), sigma=np.eye(3), count=9)


def write_sources(root: Path) -> None:
    """What `prepare` reads: folders, Parquet, webdataset, TFDS in both of its formats."""
    pictures = [encoded(picture(i), kind) for i, kind in enumerate(("PNG", "JPEG", "PNG", "WEBP", "PNG", "JPEG"))]
    rows = [
        {"file_name": f"img/{i}.png", "text": text, "entity": "cat", "n": i, "x": 0.5, "tags": ["a", "b"]}
        for i, text in enumerate(CAPTIONS)
    ]
    for name in ("jsonl", "csv"):
        (root / name / "img").mkdir(parents=True)
        for i, data in enumerate(pictures):
            (root / name / "img" / f"{i}.png").write_bytes(data)
    _write_text(root / "jsonl" / "metadata.jsonl", _lines(rows))
    table = [f'img/{i}.png,"{text}",cat,{i}\n' for i, text in enumerate(CAPTIONS)]
    _write_text(root / "csv" / "metadata.csv", "file_name,text,entity,n\n" + "".join(table))
    (root / "parquet").mkdir()
    (root / "parquet" / "train.parquet").write_bytes(parquet(pictures))
    (root / "webdataset").mkdir()
    for name, format in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        (root / "webdataset" / f"{name}.tar").write_bytes(webdataset(pictures, format))
    examples = [ImageText(f"k{i}", pictures[i], text, {"n": i}) for i, text in enumerate(CAPTIONS)]
    home = root / "tfds" / "image_text" / "1.0.0"
    home.parent.mkdir(parents=True)
    write_records(examples, home, source="specimens")
    _write_tfrecords(home, root / "tfrecord" / "image_text" / "1.0.0")
    _write_unfinished(root)


def parquet(pictures: Sequence[bytes]) -> bytes:
    """As `datasets` writes it, with its notes in the schema."""
    count = len(pictures)
    table = pa.table(
        {
            "image": pa.array([{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(pictures)]),
            "text": pa.array(list(CAPTIONS)[:count]),
            "label": pa.array([i % 2 for i in range(count)]),
            "when": pa.array([10**9 * i for i in range(count)], pa.timestamp("us")),
            "score": pa.array([i / 3 for i in range(count)]),
            "tags": pa.array([["a", "b"]] * count),
        }
    )
    features = {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}
    features["label"] = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    notes = json.dumps({"info": {"features": features}})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"huggingface": notes}), buffer, row_group_size=4)
    return buffer.getvalue()


def webdataset(pictures: Sequence[bytes], format: int) -> bytes:
    """Samples of a picture, a caption and a JSON file each; one has a long name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for i, data in enumerate(pictures):
            stem = f"{i:06d}" if i else "long/" * 30 + "000000"
            about = json.dumps({"caption": CAPTIONS[i], "n": i}).encode()
            for name, content in ((f"{stem}.png", data), (f"{stem}.json", about), (f"{stem}.txt", b"a text")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _write_tfrecords(array_records: Path, folder: Path) -> None:
    """The same TFDS data set as TFRecord files."""
    from array_record.python.array_record_module import ArrayRecordReader

    folder.mkdir(parents=True)
    raw = ArrayRecordReader(str(next(array_records.glob("*.array_record-*")))).read_all()
    content = b""
    for record in raw:
        length = len(record).to_bytes(8, "little")
        content += length + masked_crc(length).to_bytes(4, "little") + record + masked_crc(record).to_bytes(4, "little")
    (folder / "image_text-records.tfrecord-00000-of-00001").write_bytes(content)
    info = json.loads((array_records / "dataset_info.json").read_text(encoding="utf-8"))
    info["fileFormat"] = "tfrecord"
    info["splits"][0]["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    _write_text(folder / "dataset_info.json", json.dumps(info))
    (folder / "features.json").write_bytes((array_records / "features.json").read_bytes())


class _Stop(Exception):
    """Ends a preparation before its time."""


def _write_unfinished(root: Path) -> None:
    """A folder and what an interrupted `prepare --source jsonl --out out` left of it."""
    import shutil

    from reimagen_jax.data import records

    place = root / "unfinished"
    shutil.copytree(root / "jsonl", place / "photos")
    shard, seen = records.RECORDS_PER_SHARD, []

    def stop_later(self: Any, *args: Any) -> None:
        note(self, *args)
        seen.append(args)
        if len(seen) == 2:
            raise _Stop

    from reimagen_jax.data.unfinished import Unfinished

    note = Unfinished.note
    records.RECORDS_PER_SHARD, Unfinished.note = 2, stop_later
    try:
        settings = {"where": [], "resolution": None, "caption": None, "max_captions": None, "image": None}
        prepare_records(open_source(str(place / "photos"), Reading()), place / "out", settings=settings)
    except _Stop:
        pass
    finally:
        records.RECORDS_PER_SHARD, Unfinished.note = shard, note


class Words:
    """A frozen text encoder without weights: a word is a token, and so is the end."""

    width, max_tokens, fingerprint = FROZEN.width, FROZEN.max_tokens, FROZEN.fingerprint

    @property
    def tokenizer(self) -> Any:
        encode = lambda texts, most: (None, self.encode(texts)[1])  # noqa: E731
        return type("Tokenizer", (), {"encode": staticmethod(encode)})

    def encode(self, texts: Sequence[str], *, padding: str = "zero") -> tuple[np.ndarray, np.ndarray]:
        mask_NL = np.arange(self.max_tokens) <= np.array([[len(text.split())] for text in texts])
        rows = [np.random.default_rng(list(text.encode())).normal(size=(self.max_tokens, self.width)) for text in texts]
        return np.where(mask_NL[..., None], np.stack(rows), 0).astype(ml_dtypes.bfloat16), mask_NL


def write_knowledge(root: Path) -> None:
    """Records, bases of each kind, triples, text embeddings, encoders."""
    pictures = [encoded(picture(20 + i)) for i in range(len(CAPTIONS))]
    attributes = [{"entity": f"e{i % 3}", "category": "animal", "n": i} for i in range(len(CAPTIONS))]
    examples = [ImageText(f"k{i}", *row) for i, row in enumerate(zip(pictures, CAPTIONS, attributes, strict=True))]
    records = write_records(examples, root / "records", source="specimens")
    config = DualConfig(8, 8, 8)
    (root / "encoder").mkdir()
    expected = jax.eval_shape(lambda key: dual.init(config, key), jax.random.key(0))
    encoder = dual.DualEncoder(config, numbers(expected), {"measured": {}})
    encoder.save(root / "encoder")
    (root / "encoder_clip").mkdir()
    expected = jax.eval_shape(dual.towers_of(JOINT).init, jax.random.key(0))
    dual.DualEncoder(JOINT, numbers(expected), {"measured": {}}).save(root / "encoder_clip")
    (root / "encoder_images").mkdir()
    expected = jax.eval_shape(dual.towers_of(IMAGES).init, jax.random.key(0))
    dual.DualEncoder(IMAGES, numbers(expected), {"measured": {}}).save(root / "encoder_images")
    (root / "encoder_lpips").mkdir()
    expected = jax.eval_shape(dual.towers_of(LPIPS).init, jax.random.key(0))
    dual.DualEncoder(LPIPS, numbers(expected), {"published": "vgg"}).save(root / "encoder_lpips")
    base = KnowledgeBase.build(records, root / "base")
    for name, kind in (("dense", "exact"), ("ivf", "faiss")):
        settings = Dense(root / "encoder", of="text", kind=kind)
        KnowledgeBase.build(records, root / name, dense=settings, encoder=encoder)
    changed = KnowledgeBase.build(records, root / "changed")
    changed.delete(["k1"])
    others = [ImageText(f"m{i}", encoded(picture(40 + i)), text, {"n": i}) for i, text in enumerate(CAPTIONS)]
    KnowledgeBase.build(write_records(others, root / "more", source="more"), root / "another")
    build_triples(records, base, 2, root / "triples")
    text_embeddings.embed_records([records], Words(), FROZEN, root / "embeddings")


def numbers(expected: Any, seed: int = 0) -> Any:
    """Random numbers in the shapes of a tree; integers are 2."""
    rng = np.random.default_rng(seed)

    def leaf(shape: Any) -> jax.Array:
        if jnp.issubdtype(shape.dtype, jnp.integer):
            return jnp.full(shape.shape, 2, shape.dtype)
        return jnp.asarray(np.abs(rng.normal(size=shape.shape)) * 0.1, shape.dtype)

    return jax.tree.map(leaf, expected)


def experiment(root: Path) -> Experiment:
    """The smallest, on the triples there."""
    return dataclasses.replace(EXPERIMENT, data=dataclasses.replace(EXPERIMENT.data, triples=str(root / "triples")))


def abstract_state(config: Experiment) -> TrainState:
    """What a run of the experiment holds, as shapes."""
    system, optimizer = kinds.system_of(config), make_optimizer(config.train)
    return jax.eval_shape(functools.partial(init_state, system, optimizer), jax.random.key(0))


def write_weights(root: Path) -> None:
    """A run with a checkpoint, weights handed on, of unCLIP too, a rater, stored ratings."""
    config = experiment(root)
    state = numbers(abstract_state(config))
    with atomic_dir(root / "model", kind="weights") as folder:
        export(folder, EXPERIMENT, state.params)
    for name, smallest in (UNCLIP | RCG).items():
        with atomic_dir(root / name, kind="weights") as folder:
            export(folder, smallest, numbers(jax.eval_shape(kinds.system_of(smallest).init, jax.random.key(0))))
    feed = kinds.feed_of(config)
    run = root / "run"
    run.mkdir()
    settle(run, feed.config, feed.fingerprint, None)
    data = iter(feed.dataset())
    next(data)
    checkpoints = Checkpoints(run, 3)
    checkpoints.save(state, data)
    checkpoints.close()
    small = RaterConfig(resolution=32)
    share = [0.9, 0.8, 1.0]
    metrics = {"num_images": 8, "faithful": share, "aligned": share, "parameters": {"category": share}}
    (root / "rater").mkdir()
    Rater(small, numbers(shapes(small)), metrics).save(root / "rater")
    write_ratings(root / "ratings")
    write_judged(root / "judged")
    _write_text(run / "metrics.jsonl", _lines([{"step": step, "loss": 0.5} for step in range(1, 4)]))


def write_ratings(folder: Path) -> None:
    """What `evaluate` stores of an arm."""
    from reimagen_jax.evaluation.entities.bench import Outcome
    from reimagen_jax.evaluation.entities.store import checksum, to_json

    right_NS = np.arange(8).reshape(4, 2) % 3 == 0
    outcome = Outcome(
        faithful_NS=right_NS,
        aligned_NS=~right_NS,
        look_right_NSP=np.repeat(right_NS[..., None], 12, axis=2),
        scene_right_NSA=np.repeat(right_NS[..., None], 4, axis=2),
        told_NA=np.arange(16).reshape(4, 4) % 2 == 0,
        copied_NS=right_NS,
        found_N=np.linspace(0, 1, 4),
        category_N=np.arange(4),
        entity_N=np.arange(4),
        seconds=1.5,
    )
    folder.mkdir()
    told = signed({"settings": {}, "outcome": to_json(outcome)})
    _write_text(folder / f"{checksum({})}.json", json.dumps(told))


def write_judged(folder: Path) -> None:
    """What `evaluate people` draws, filled in."""
    from reimagen_jax.evaluation.entities.people import DRAWN, RATINGS

    folder.mkdir()
    sheet = {"image": 0, "category": "animal", "neighbours": ["k0"]}
    about = [{**sheet, "picture": f"{i}.png", "source": ("own", "none")[i // 2], "prompt": i % 2} for i in range(4)]
    prompts = [
        {"text": "a cat", "category": "animal", "entity": "cat", "keys": ["k0"], "is_caption": False} for _ in range(2)
    ]
    drawn = {"images_per_prompt": 1, "sources": ["own", "none"], "prompts": prompts, "pictures": about}
    _write_text(folder / DRAWN, json.dumps(drawn))
    rows = "".join(f"{i}.png,a cat,cat,,1,{i % 2},0\n" for i in range(4))
    _write_text(folder / RATINGS, "picture,prompt,entity,references,entity_right,text_right,realistic\n" + rows)


def write_published(root: Path) -> None:
    """A T5 in one file and in several with an index, a CLIP, and their tokenizers in all forms."""
    config = t5.t5_config(T5)
    tensors = _published(t5.abstract_params(config, "float32"), lambda path: t5.source(path, config))
    names = sorted(tensors)
    for name in ("t5", "t5_sharded"):
        (root / name).mkdir()
        _write_text(root / name / "config.json", json.dumps(T5))
        write_spiece(root / name)
    save_file(tensors, root / "t5" / "model.safetensors")
    parts = {f"model-{i + 1:05d}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, root / "t5_sharded" / file)
    index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file, held in parts.items() for name in held}}
    _write_text(root / "t5_sharded" / "model.safetensors.index.json", json.dumps(index))
    network = clip.Clip(clip.clip_config(CLIP))
    expected = jax.eval_shape(lambda key: network.init(key, method="everything"), jax.random.key(0))["params"]
    (root / "clip").mkdir()
    save_file(_published(expected, clip.source), root / "clip" / "model.safetensors")
    _write_text(root / "clip" / "config.json", json.dumps(CLIP))
    write_bpe(root / "clip")
    _write_text(root / "clip" / "tokenizer_config.json", json.dumps({"pad_token": "<|endoftext|>"}))
    (root / "clip_json").mkdir()
    (root / "t5_json").mkdir()
    from reimagen_jax.encoders.hf_tokenizers import clip_words

    clip_words(root / "clip" / "vocab.json", root / "clip" / "merges.txt").save(str(root / "clip_json/tokenizer.json"))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -3.0) for letter in "▁abcdefghijklmnop")]
    words = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    words.add_special_tokens(["<pad>", "</s>", "<extra_id_0>"])
    words.save(str(root / "t5_json" / "tokenizer.json"))


def _published(expected: Any, source_of: Any) -> dict[str, np.ndarray]:
    """Random tensors under the names, and with the axes, that a publisher gives them."""
    tensors = {}
    for path, leaf in flatten_dict(expected, sep="/").items():
        source, array = source_of(path), np.random.default_rng(0).normal(size=leaf.shape).astype(np.float32)
        axes = source.axes or tuple(range(array.ndim))
        tensors[source.name] = np.ascontiguousarray(array.transpose(np.argsort(axes)))
    return tensors


def write_spiece(folder: Path) -> None:
    """A `spiece.model` as T5's is: unigram, padding 0, end 1, unknown 2."""
    options = {"vocab_size": 60, "hard_vocab_limit": False, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    with (folder / "spiece.model").open("wb") as file:
        trainer = sentencepiece.SentencePieceTrainer
        trainer.train(sentence_iterator=iter(CAPTIONS * 4), model_writer=file, minloglevel=2, **options)


def write_bpe(folder: Path) -> None:
    """`vocab.json` and `merges.txt` as CLIP's are: bytes, bytes that end a word, merges, two special tokens."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t</w>"), ("r", "e"), ("re", "d</w>")]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    _write_text(folder / "vocab.json", json.dumps(vocab))
    _write_text(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))


def write_texts(root: Path) -> None:
    """Files of prompts, pictures that tell where they come from, and command lines."""
    (root / "pictures_told").mkdir()
    for name in ("a", "b"):
        save_image(root / "pictures_told" / f"{name}.png", np.zeros((8, 8, 3), np.uint8), ORIGIN)
    (root / "prompts").mkdir()
    _write_text(root / "prompts" / "prompts.txt", "".join(f"{text}\n" for text in CAPTIONS))
    rows = [{"text": text, "entity": "cat", "look": [0, 1, 2], "scene": {}, "tells": []} for text in CAPTIONS]
    _write_text(root / "prompts" / "prompts.jsonl", _lines(rows))
    (root / "options").mkdir()
    for i, line in enumerate(OPTIONS):
        _write_text(root / "options" / f"{i}.txt", "\n".join(line.split()))


_PLAIN = ModelOrigin("tiny", "none", 3, "ab")
_STAGE = StageOrigin(_PLAIN, {"num_steps": 2, "k": 1}, {"eta": 0.5}, (1.0, 0.5, 0.0), (1,), 4)
_HIT = NeighbourOrigin("k1", "a cat", 1.5, "0" * 64, "source", "ab", "none", {"licence": "CC0"})
ORIGIN = Origin(
    *(1, "sample", "a cät", "ink", "", 3, 5, (_HIT,), StartOrigin("1" * 64, "a.png"), (_STAGE,)),
    *("2" * 64, "cpu", {"jax": "0.10"}, "reimagen sample"),
)
"""What a picture tells, of all kinds of fields."""
OPTIONS = (
    "train EXPERIMENT --workdir run --train.num-steps 4 --train.learning-rate 1e-3 --data.batch-size 8 --resolution 16",
    "train EXPERIMENT --workdir run --sampler.num-steps 5 --sampler.eta 0.5 --train.beta2 0.9 --train.clip-norm 1",
    "train EXPERIMENT --workdir run --train.seed 1 --data.num-neighbours 2 --init.weights none --unet.patch 2",
    "train EXPERIMENT --workdir run --train.ema-decay 0.9 --text-drop 0.1 --data.threads 2 --train.optimizer adafactor",
    "sample --model none --out out --prompt cat --steps 3 --eta 0.5 --num-images 2 --seed 1 --batch-size 4 --k 2",
    "sample --model none --out out --prompts none.txt --text-weight 3 --neighbour-weight 2 --solver ddim --limit 3",
    "sample --model none --out out --prompts none.txt --share 1 2 --devices 2 --hide-paths",
    "reproduce none.png --model none --knowledge-base none --reference none.png --out out",
    "sweep --model none --out out --prompt cat --knowledge-base none --etas 0 0.5 1 --steps 3",
    "sweep --model none --out out --prompt cat --over eta=0:1:0.5 --over steps=1,2 --over words=cat,dog --show 3",
    "search none cat --k 3 --where a=b --method hybrid --dense-weight 0.5 --depth 10 --ban a --pin b",
    "split none --out out --by entity family --rare 0.2 --unseen 0.2 --keep 2 --seed 1",
    "split none --out out --parts train valid=0.1 --seed 1 --rare-below 3",
    "search none cat --where-not a=b --match entity --floor 0.5 --tie-seed 1 --limit 3 --model none --prompts none.txt",
    "sample --model none --out out --prompt cat --query dog --knowledge-base none --as-trained no --floor 0.5",
    "index none --out out --k1 1.2 --b 0.75 --stem --stop-words english",
    "index none --delete-where a=b --out out",
    "triples none --knowledge-base none --out out --num-neighbours 2 --near-duplicates 0.1 --seed 3 --query-by entity",
    "triples none --knowledge-base none --out out --candidates 4 --exclude-same style --floor 0.5 --tie-seed 2",
    "embed none --text-encoder none --text-embeddings out --text-tokens 32 --text-batch-size 4",
    "distill --model none --triples none --out out --steps 2 --teacher-steps 2 --num-steps 3 --text-weights 1 3",
    "export none --out out --dtype float16",
    "encode-train none --out out --towers clip --resolution 32 --num-steps 3 --learning-rate 1e-3 --held-out 0.1",
    "evaluate entities --model none --knowledge-base none --out out --num-prompts 4 --ks 0 1 --etas 0 1 --k 2",
    "evaluate pictures --model none --records none --records-where a=b --out out --over eta=0,1 --set-default",
    "sample --model none --records none --records-where-not a=b --out out",
    "sample --model none --cascade none,text-weight=3 none --prompt cat --out out --embedding text --prior-top 0.5",
    "sample --model none --cascade none --prompt cat --out out --sampling-temperature 0.5 --negative dog",
    "unclip vary none.png --model none --out out --stochasticity 0.5 1 --num-images 2 --steps 3 --refine 1",
    "unclip blend none.png none.png --model none --out out --frames 3 --noise fixed --num-images 2 --guidance 2",
    "unclip diff none.png --from cat --to dog --most 0.3 --frames 3 --model none --out out --prompt cat --seed 1",
    "unclip components none.png --records none --dims 0 1 --fit 2 --model none --out out --cascade none",
    "prepare --source none --out out --resolution 8 --where a=b --caption text --max-captions 2 --split train",
)
"""Command lines that name nothing that is there, so that a command looks at its options and ends."""


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
