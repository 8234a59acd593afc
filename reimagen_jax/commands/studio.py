"""`reimagen studio`: a page in the browser to draw with retrieval (web/studio)."""

import dataclasses
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from reimagen_jax import runtime
from reimagen_jax.checked import Options
from reimagen_jax.commands.edit import COMMANDS as EDITS
from reimagen_jax.commands.options import command_line
from reimagen_jax.commands.prompt_options import PromptOptions
from reimagen_jax.commands.sample import DRAWING, Sample
from reimagen_jax.commands.sampling_options import (
    CascadeOptions,
    EnlargingOptions,
    SamplingOptions,
    StageOption,
    open_drawing,
)
from reimagen_jax.commands.serving_options import ServingOptions, needs_web
from reimagen_jax.errors import require
from reimagen_jax.paths import local
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
    from reimagen_jax.web.studio.drawing import Line
    from reimagen_jax.web.studio.offered import Offered
    from reimagen_jax.web.studio.studio import Studio as Behind

WORLD = "studio"
"""Folder of the world's knowledge base, where compiled programs are kept."""
FREQUENT = 24
"""Entities of the training data that it knows, beside all unseen ones."""


@dataclass(frozen=True)
class Studio(Options):
    """Draw with retrieval in the browser: see what is found, choose among it, move from neighbours to text.

        reimagen studio --open

    With weights that come with the package and a knowledge base of EntityWorld, which is made the first time. With your
    own:
        reimagen studio --model runs/train --knowledge-base runs/index

    With several systems to choose among, each a model or, with + between them, a cascade:
        reimagen studio --model base=runs/base64 --model large=runs/base64+runs/sr256 --knowledge-base runs/index

    Each is asked for what it can do: a decoder of unCLIP draws from the neighbours' embeddings, and beside it from that
    of the text; a prior with its decoder from the text alone:
        reimagen studio --model reimagen=shipped --model decoder=runs/decoder --model dalle2=runs/prior+runs/decoder \\
            --knowledge-base runs/index

    It prints an address with a token in it, and is reached from this machine alone. Ctrl-C ends it.
    """

    common: ClassVar[tuple[str, ...]] = ("model", "knowledge_base")

    model: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="[LABEL=]DIR[+DIR ...]")] = ()
    """A system to choose: folder of a training run or of weights, several with + between them for a cascade (default:
    `shipped`, the weights in the package). Repeat it for more."""
    knowledge_base: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where neighbours are looked for: a folder written by `reimagen index` (default: with shipped weights one of
    EntityWorld, else none)."""
    text_encoder: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the published text encoder (T5, CLIP) of models that have such a one (default: where it was in
    training)."""
    page: Annotated[ServingOptions, tyro.conf.arg(name="")] = field(default_factory=ServingOptions)

    def run(self) -> None:
        """Serves the page until Ctrl-C. Raises `UserError` on bad options."""
        with needs_web():
            from reimagen_jax.web.studio import routes

        labelled = self._labelled()
        with ExitStack() as stack:
            host = self.page.host
            self.page.serve(lambda token: routes.application(self._behind(labelled, stack), token=token, host=host))

    def _behind(self, labelled: Mapping[str, tuple[Path, ...]], stack: ExitStack) -> "Behind":
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
        from reimagen_jax.web.studio.studio import Studio as Behind

        base = None if self.knowledge_base is None else KnowledgeBase.open(self.knowledge_base)
        offered = [self._opened(label, paths) for label, paths in labelled.items()]
        if base is None and str(offered[0].paths[0]) == "shipped":
            base = _world(stack, offered[0])
        return Behind(offered, base, lambda line: command_of(line, base))

    def _labelled(self) -> dict[str, tuple[Path, ...]]:
        """Label -> the models in a row."""
        found: dict[str, tuple[Path, ...]] = {}
        for word in self.model or ("shipped",):
            label, equals, places = word.partition("=")
            if not equals:
                label, places = Path(word.partition("+")[0]).name, word
            require(bool(label.strip()) and bool(places), f"--model {word}: [LABEL=]DIR is expected")
            require(label not in found, f"--model {word}: there is a {label} already, give another LABEL=")
            found[label] = tuple(local(place) for place in places.split("+"))
        return found

    def _opened(self, label: str, paths: tuple[Path, ...]) -> "Offered":
        from reimagen_jax.inference.pipeline import check_chain
        from reimagen_jax.web.studio.offered import Offered

        models = tuple(open_drawing(path, self.text_encoder, on_host=True, kinds=DRAWING) for path in paths)
        check_chain([model.config for model in models])
        first, last = models[0].config.system, models[-1].config.system
        require(
            getattr(first, "super_resolution", None) is None,
            f"--model {label} begins with a super-resolution model: put the base model before it, BASE+{paths[0]}",
        )
        require(last.drawn is not None, f"--model {label} draws embeddings: put a decoder behind it, with +")
        offered = Offered(label, paths, models)
        offered.check()
        return offered


def _world(stack: ExitStack, offered: "Offered") -> "KnowledgeBase":
    """EntityWorld's unseen entities, and some that the model knows: made once, and kept with the compiled programs."""
    from reimagen_jax.data.entityworld import World
    from reimagen_jax.evaluation import demonstration
    from reimagen_jax.files import atomic_dir
    from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

    cache = runtime.cache()
    place = Path(cache) if cache else Path(stack.enter_context(tempfile.TemporaryDirectory()))
    side = offered.first.config.system.resolution
    place = place / f"{WORLD}{side}"
    if not place.exists():
        say(f"making a knowledge base of EntityWorld in {place}")
        place.parent.mkdir(parents=True, exist_ok=True)
        world = World()
        with atomic_dir(place, kind="demonstration") as folder:
            demonstration.knowledge_base(world, demonstration.choose(world, "frequent", FREQUENT), folder, side)
    return KnowledgeBase.open(place / "index")


def command_of(line: "Line", base: "KnowledgeBase | None") -> str:
    """The command line that draws the same; pictures that were sent to the page are files beside it."""
    asked, offered, pipeline = line.asked, line.offered, line.pipeline
    settings = _with_numbers(pipeline.settings, line)
    stages = EnlargingOptions if asked.kind == "draw" else CascadeOptions
    how = SamplingOptions(asked.num_images, seed=asked.seed, batch_size=pipeline.stages[0].batch_size)
    common: dict[str, Any] = {
        "model": offered.paths[0],
        "out": Path("OUT"),
        "what": _prompts(line, base),
        "eta": line.eta if hasattr(settings, "eta") else None,
        "how": how.resolved(settings),
        "stages": stages(tuple(map(StageOption, offered.paths[1:]))).resolved(pipeline),
    }
    if asked.kind == "draw":
        return command_line("sample", Sample(**common))
    common["baseline"] = line.baseline
    own: dict[str, Any] = {"strength": asked.strength}
    if asked.kind in ("image", "inpaint"):
        own["image"] = Path(line.files[asked.picture])
    if asked.kind == "inpaint":
        own["mask"] = Path("mask.png")
    if asked.kind == "swap":
        own = {
            "to_prompt": asked.to_prompt.strip() or None,
            "to_query": asked.to.query.strip() if base is not None else "",
            "to_reference": tuple((Path(line.files[own.picture]), own.caption.strip()) for own in asked.to.own),
            "to_pin": (asked.to.pin,) if asked.to.pin else (),
        }
    return command_line(f"edit {asked.kind}", EDITS[asked.kind](**common, **own))


def _prompts(line: "Line", base: "KnowledgeBase | None") -> PromptOptions:
    asked, chosen = line.asked, line.asked.chosen
    what = PromptOptions(prompt=((asked.prompt.strip(),),), negative=asked.negative.strip() or None)
    if not line.prompt.neighbours and (asked.kind == "draw" or not line.offered.takes_neighbours):
        return what
    what = dataclasses.replace(
        what,
        reference=tuple((Path(line.files[own.picture]), own.caption.strip()) for own in chosen.own),
        k=chosen.k,
    )
    if base is None:
        return what
    return dataclasses.replace(
        what,
        knowledge_base=base.path,
        query=((chosen.query.strip(),),) if chosen.query.strip() else (),
        pin=(chosen.pin,) if chosen.pin else (),
        ban=(chosen.ban,) if chosen.ban else (),
    )


def _with_numbers(settings: Any, line: "Line") -> Any:
    """The settings with the numbers of guidance that the request has of its own."""
    given = {"text_weight": line.asked.text_weight, "neighbour_weight": line.asked.neighbour_weight}
    return settings.changed(**{n: value for n, value in given.items() if value is not None and hasattr(settings, n)})
