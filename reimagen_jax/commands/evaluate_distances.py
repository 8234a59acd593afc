"""`reimagen evaluate fid`, `drawn`, `scores`, `statistics`: how far pictures are from a reference, whatever drew them,
and what is told of them without one."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from reimagen_jax.checked import Count, Options
from reimagen_jax.commands.options import command_line
from reimagen_jax.commands.prompt_options import PromptOptions
from reimagen_jax.commands.sampling_options import CascadeOptions, SamplingOptions, open_drawing
from reimagen_jax.encoders.settings import InceptionPoint, Resizing
from reimagen_jax.errors import require
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    import jax

    from reimagen_jax.data.pictures import Pictures
    from reimagen_jax.evaluation.features import Features
    from reimagen_jax.evaluation.sets import Figure, PictureSet
    from reimagen_jax.inference.model import Model

Sets = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class FeatureOptions(Options):
    """What pictures are compared by. Figures compare by the same features and resizing alone, of as many pictures."""

    common: ClassVar[tuple[str, ...]] = ("features", "resizing")

    features: Annotated[Path, tyro.conf.arg(metavar="rater|FILE|DIR")] = Path("rater")
    """The rater that comes with the package; the weights of FID's Inception as they are published
    (pt_inception-2015-12-05-6726825d.pth, read without running what is in it); a folder written by `reimagen rater
    train` or `reimagen encode-train`; a CLIP as Hugging Face stores it (CLIP-FID)."""
    resizing: Resizing | None = None
    """Of Inception: how pictures become 299 x 299. As pytorch-fid (default) or torch-fidelity do it, which the ADM
    suite's and RCG's figures are by; or `clean`, smoothed. Papers' figures differ by it."""
    point: InceptionPoint | None = None
    """Of Inception: the values of its features, by which it is told where they are taken (default: 2048, the last)."""

    def open(self) -> "Features":
        """The network. Raises `UserError` where there is none."""
        from reimagen_jax.evaluation.features import open_features

        return open_features(self.features, self.resizing, self.point)


@dataclass(frozen=True)
class Fid(Options):
    """How far pictures are from a reference: FID, KID, precision and recall, density and coverage.

        reimagen evaluate fid runs/drawn runs/held_out
        reimagen evaluate fid drawn.zip runs/held_out --features runs/encoder --out figures.json
        reimagen evaluate fid runs/drawn statistics.npz --fid-infinity
        reimagen evaluate fid runs/drawn runs/held_out --features pt_inception-2015-12-05-6726825d.pth
        reimagen evaluate fid runs/drawn adm.npz --features pt_inception-2015-12-05-6726825d.pth \\
            --resizing torch-fidelity

    Each is a folder of records, a folder of picture files, an archive of such (.tar, .zip), pictures in an .npz
    (`arr_0`), or (FID and sFID alone) statistics in an .npz (`mu`, `sigma`; `mu_s`, `sigma_s`), as pytorch-fid and the
    ADM suite write them.
    Precision is the share of PICTURES that look like some of REFERENCE, recall the share of REFERENCE that some of
    PICTURES look like. Features are those of the rater of EntityWorld, unless --features gives others; each figure
    names its own. By Inception there are its score and sFID, too.
    """

    common: ClassVar[tuple[str, ...]] = ("out", "overwrite")

    pictures: Sets
    """Pictures that are judged."""
    reference: Sets
    """Pictures, or their statistics, that they are compared with."""
    by: Annotated[FeatureOptions, tyro.conf.arg(name="")] = field(default_factory=FeatureOptions)
    fid_only: bool = False
    """FID (and sFID) alone, with all its bias: no vectors are kept in memory, whatever the number of pictures."""
    fid_infinity: bool = False
    """FID-infinity, too (Chong & Forsyth 2020), to be compared with that of papers: fifteen times the work of FID."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file for the figures, with what they are of."""
    overwrite: bool = False
    """Replace the file in --out."""

    def run(self) -> None:
        """Reads both and prints the figures. Raises `UserError` on bad options or input."""
        from reimagen_jax.evaluation.sets import read_set

        _require_place(self.out, self.overwrite)
        require(
            not (self.fid_only and self.fid_infinity),
            "--fid-infinity is of vectors, and --fid-only keeps none: leave one of them out",
        )
        _require_there(pictures=self.pictures, reference=self.reference)
        features = self.by.open()
        # Statistics first: whether they go with the features is known at once.
        y, x = (
            read_set(path, features, keep=not self.fid_only, title=title)
            for title, path in (("reference", self.reference), ("pictures", self.pictures))
        )
        _tell("evaluate fid", self, features, x, y)


@dataclass(frozen=True)
class Drawn(Options):
    """How far what a model draws is from a reference, measured as it draws: no picture is written.

        reimagen evaluate drawn runs/held_out --model runs/train --records runs/held_out --limit 1000 \\
            --knowledge-base runs/index --out figures.json

    The figures of `reimagen evaluate fid`, of the pictures that `reimagen sample` would write for the same prompts; by
    a CLIP also how well they go with these.
    """

    common: ClassVar[tuple[str, ...]] = ("out", "overwrite")

    reference: Sets
    """Pictures, or their statistics, that it is compared with."""
    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    by: Annotated[FeatureOptions, tyro.conf.arg(name="")] = field(default_factory=FeatureOptions)
    what: Annotated[PromptOptions, tyro.conf.arg(name="")] = field(default_factory=lambda: PromptOptions(limit=1000))
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)
    stages: Annotated[CascadeOptions, tyro.conf.arg(name="")] = field(default_factory=CascadeOptions)
    devices: Count | None = None
    """Devices that draw side by side (default: all of this machine)."""
    fid_infinity: bool = False
    """FID-infinity, too (Chong & Forsyth 2020), to be compared with that of papers: fifteen times the work of FID."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file for the figures, with what they are of."""
    overwrite: bool = False
    """Replace the file in --out."""

    def run(self) -> None:
        """Draws, compares and prints. Raises `UserError` on bad options or input."""
        from reimagen_jax.evaluation.sets import read_set

        self.what.check()
        _require_place(self.out, self.overwrite)
        _require_there(reference=self.reference)
        features = self.by.open()
        drawn, command, facts = self._pictures()
        y = read_set(self.reference, features, title="reference")
        x = read_set(drawn, features, captions=features.clip and features.texts is not None, title="drawing")
        _tell("evaluate drawn", command, features, x, y, **facts)

    def _pictures(self) -> "tuple[Pictures, Drawn, dict[str, Any]]":
        """What is drawn as it is read, the command with nothing left to the experiments, and what is told of both."""
        from reimagen_jax.inference.drawing import pictures_of
        from reimagen_jax.inference.jobs import most_neighbours

        models = open_chain(self.model, self.how, self.stages)
        configs = [model.config for model in models]
        devices = devices_of(self.devices)
        asked = self.what.source(configs[0])
        found, _ = most_neighbours(asked)
        first = self.how.settings(configs[0].system.sampler)
        pipeline = self.stages.pipeline(models, self.how, first, found, devices if len(devices) > 1 else ())
        command = dataclasses.replace(
            self,
            what=self.what.resolved(configs[0]),
            how=self.how.resolved(pipeline.settings),
            stages=self.stages.resolved(pipeline),
            devices=None,
        )
        facts = {"models": [model.facts() for model in models], "data": self.what.sources(configs[0])}
        return pictures_of(pipeline, asked, self.how.num_images, self.model), command, facts


def open_chain(model: Path, how: SamplingOptions, stages: CascadeOptions) -> "list[Model]":
    """The models that draw pictures of prompts alone, one after the other. Raises `UserError` where they do not."""
    from reimagen_jax.commands.sample import DRAWING
    from reimagen_jax.inference.pipeline import check_chain

    paths = (model, *(stage.model for stage in stages.cascade))
    models = [open_drawing(path, how.text_encoder, kinds=DRAWING) for path in paths]
    configs = [each.config for each in models]
    check_chain(configs)
    require(
        configs[0].system.super_resolution is None,
        f"--model {model} enlarges images: give it to --cascade, behind the model that draws them",
    )
    last = configs[-1]
    require(last.system.drawn is not None, f"{last.name} is a {last.system.kind}, which draws no pictures")
    return models


def devices_of(number: int | None) -> "list[jax.Device]":
    """So many of this machine, or all. Raises `UserError` where it has fewer."""
    import jax

    devices = jax.local_devices()[:number]
    require(len(devices) >= (number or 1), f"--devices {number}: this machine has {len(devices)}")
    return devices


@dataclass(frozen=True)
class Scores(Options):
    """What is told of pictures without a reference: the Inception Score, or how well they go with their captions.

        reimagen evaluate scores runs/drawn --features pt_inception-2015-12-05-6726825d.pth
        reimagen evaluate scores runs/drawn --features clip-vit-base-patch32 --out scores.json

    The Inception Score as torch-fidelity has it: 10 splits in an order drawn with seed 2020, logits without their bias.
    By a CLIP, the mean cosine of pictures and captions, on the three scales that papers tell it on. Captions are those
    of records, prompts of what `reimagen sample` drew, or NAME.txt beside NAME.png.
    """

    common: ClassVar[tuple[str, ...]] = ("out", "overwrite")

    pictures: Sets
    """Pictures, as for `reimagen evaluate fid`."""
    by: Annotated[FeatureOptions, tyro.conf.arg(name="")] = field(default_factory=FeatureOptions)
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file for the figures, with what they are of."""
    overwrite: bool = False
    """Replace the file in --out."""

    def run(self) -> None:
        """Reads and prints. Raises `UserError` on bad options or input."""
        from reimagen_jax.evaluation.sets import read_set

        _require_place(self.out, self.overwrite)
        _require_there(pictures=self.pictures)
        features = self.by.open()
        require(
            features.scores or features.texts is not None,
            f"--features {self.by.features} ({features.name}) tells neither Inception's classes nor reads texts: give "
            "Inception's weights (--point 2048) or a CLIP",
        )
        x = read_set(self.pictures, features, captions=features.texts is not None, title="pictures")
        _tell("evaluate scores", self, features, x)


@dataclass(frozen=True)
class Statistics(Options):
    """Mean and covariance of pictures' features, to be a reference of `reimagen evaluate fid` again and again.

        reimagen evaluate statistics runs/held_out --out held_out.npz

    The .npz has `mu` and `sigma`, as pytorch-fid's and the ADM suite's have, by Inception also `mu_s` and `sigma_s`, as
    the suite's, for sFID, and what they are of.
    """

    common: ClassVar[tuple[str, ...]] = ("overwrite",)

    pictures: Sets
    """Pictures, as for `reimagen evaluate fid`."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The .npz file to write."""
    by: Annotated[FeatureOptions, tyro.conf.arg(name="")] = field(default_factory=FeatureOptions)
    overwrite: bool = False
    """Replace the file in --out."""

    def run(self) -> None:
        """Reads, writes and says of what. Raises `UserError` on bad options or input."""
        from reimagen_jax.evaluation.sets import read_set, write_statistics

        require(self.out.suffix == ".npz", f"--out {self.out}: statistics are a file NAME.npz")
        _require_place(self.out, self.overwrite)
        features = self.by.open()
        found = read_set(self.pictures, features, keep=False, title="pictures")
        write_statistics(self.out, found, features)
        say(f"{found}", f"by {features}", f"statistics: {self.out}")


def _tell(
    name: str,
    command: Fid | Drawn | Scores,
    features: "Features",
    x: "PictureSet",
    y: "PictureSet | None" = None,
    **more,
) -> None:
    """Prints the figures, and writes them where that is asked for."""
    from reimagen_jax.evaluation.sets import compare, remarks, scores
    from reimagen_jax.files import write_json
    from reimagen_jax.inference.provenance import versions

    say(f"pictures: {x}", *([f"reference: {y}"] if y else []), f"by {features}")
    infinity = getattr(command, "fid_infinity", False)
    figures: list[Figure] = scores(x, features) if y is None else compare(x, y, features, infinity)
    notes = remarks(x, y, infinity)
    say(*figures, *notes)
    if command.out is None:
        return
    sets = {"pictures": x, **({"reference": y} if y else {})}
    facts = {
        "command": command_line(name, command),
        "features": str(features),
        **{title: {"path": of.name, "of": of.what, "count": of.gaussian.count} for title, of in sets.items()},
        "figures": [figure._asdict() for figure in figures],
        "remarks": notes,
        "versions": versions(),
        **more,
    }
    write_json(command.out, facts)


def _require_there(**places: Path) -> None:
    """Raises `UserError` where a set is not."""
    for title, path in places.items():
        require(path.exists(), f"{path} not found: the {title} are a folder of them, records, .tar, .zip or .npz")


def _require_place(out: Path | None, overwrite: bool) -> None:
    """Raises `UserError` before anything is computed."""
    if out is None:
        return
    require(overwrite or not out.exists(), f"{out} already exists: pass --overwrite to replace it")
    require(not out.is_dir(), f"{out} is a folder: name a file")
    require(out.is_file() or not out.exists(), f"{out} is no file that could be replaced: choose another --out")
    require(not out.parent.is_file(), f"{out.parent} is a file, no folder: choose another --out")
    require(out.parent.is_dir(), f"{out.parent} not found: make the folder first, or choose another --out")
