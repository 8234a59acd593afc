"""How the shipped model, or another of EntityWorld, draws by few steps, and by every form of guidance.

    python tools/sampler_bench.py steps --knowledge-base runs/world/index --out runs/steps
    python tools/sampler_bench.py guidance --knowledge-base runs/world/index --out runs/guidance

Every row is EntityDrawBench with retrieval: the same prompts from the same noise, compared prompt by prompt. `steps`
asks how few evaluations of the network keep the faithfulness and alignment of many steps of DDPM: solvers, spacings and
forms of guidance. `guidance` sets the forms side by side at equal evaluations, which is fewer steps for the one that
needs three of them. Rows are stored as they are done: after a stop, the same command goes on where it was. Writes
table.md, results.json and picture.png, anew after every row.

An evaluation is one of the network for one image: a guided prediction is two of them, or three (compositional), and
one where nothing is guided; Heun's method predicts twice a step but in the last.
"""

import copy
import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from reimagen_jax import runtime
from reimagen_jax.checked import Count, NonNegative, Options, Seed, Share
from reimagen_jax.cli import status_of
from reimagen_jax.commands.options import command_line
from reimagen_jax.diffusion.settings import SamplerSteps, Solver
from reimagen_jax.diffusion.spacing import ANY_PROCESS, Spacing
from reimagen_jax.errors import require
from reimagen_jax.systems.reimagen.settings import EVALUATIONS, Guidance, GuidedSamplerConfig, ReImagenConfig
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from reimagen_jax.evaluation.entities.bench import EntityBench, Outcome

MEASURES = ("faithful", "aligned")
LEVELS = EVALUATIONS | {"none": 1}
"""Evaluations of a prediction; two where nothing is said."""
Variant = Literal["linear", "cosine", "middle", "early-off", "rescaled"]
VARIANTS: dict[Variant, dict[str, Any]] = {
    "linear": {"guidance_schedule": "linear"},
    "cosine": {"guidance_schedule": "cosine"},
    "middle": {"guidance_interval": (0.2, 0.8)},
    "early-off": {"guidance_interval": (0.0, 0.8)},
    "rescaled": {"guidance_rescale": 0.7},
}
SHOWN_STEPS = ("solver", "spacing", "guidance", "steps", "evaluations")


@dataclass(frozen=True)
class Row:
    """One way to draw, and how a table tells of it."""

    settings: GuidedSamplerConfig
    told: dict[str, str | int]


@dataclass(frozen=True)
class Bench(Options):
    """What both measurements share."""

    knowledge_base: Path
    """Folder written by `reimagen index`, over records of EntityWorld."""
    out: Path
    """Folder to write, or to go on with."""
    model: Path = Path("shipped")
    """Folder of a training run, or of weights."""
    num_prompts: Count = 256
    """Prompts about the entities of each split."""
    splits: tuple[Literal["frequent", "rare", "unseen"], ...] = ("unseen", "frequent")
    """Splits of the entities."""
    seed: Seed = 0
    """Of prompts and noise."""
    batch_size: Count = 64
    """Images drawn at once."""

    def run(self) -> None:
        """Draws, rates and writes row by row."""
        from reimagen_jax.files import growing_dir

        with growing_dir(self.out, kind="evaluation"):
            self._measure()

    def command(self) -> str:
        """The command line that this is."""
        raise NotImplementedError

    def rows(self, system: ReImagenConfig) -> Iterator[Row]:
        """What is measured of a model; the first row is what the others are compared with."""
        raise NotImplementedError

    def figure(self, entries: list[dict[str, Any]]) -> "Figure":
        """The rows as a picture."""
        raise NotImplementedError

    def _measure(self) -> None:
        from reimagen_jax.evaluation.entities.arms import Arm
        from reimagen_jax.evaluation.entities.store import run_arm
        from reimagen_jax.files import write_json, write_text
        from reimagen_jax.inference.model import Model
        from reimagen_jax.inference.pipeline import Pipeline
        from reimagen_jax.inference.provenance import versions
        from reimagen_jax.reports import figures

        require(len(self.splits) > 0, "--splits is empty: give at least one of frequent, rare, unseen")
        model = Model.open(self.model)
        k, rows = model.config.data.num_neighbours, list(self.rows(model.config.system))
        bench, first, entries = self._opened(model), {}, []
        for number, row in enumerate(rows, 1):
            settings = dataclasses.replace(row.settings, k=k)
            bench = copy.copy(bench)  # prompts and neighbours are looked for once
            bench.pipeline = Pipeline([model.stage(settings, self.batch_size)], self.seed)
            for split in self.splits:
                outcome = run_arm(bench, Arm(split, "retrieval", k, settings.eta), self.out / "rows")
                entries.append({"split": split, **row.told, **compared(outcome, first.setdefault(split, outcome))})
                say(f"{number} of {len(rows)}: {' | '.join(map(str, entries[-1].values()))}")
            lines = [*table(entries), "", *self.found(entries)]
            write_text(self.out / "table.md", "\n".join(lines) + "\n")
            facts = {"command": self.command(), "settings": vars(self), "model": model.facts(), "versions": versions()}
            facts |= {"complete": number == len(rows), "rows": entries}
            write_json(self.out / "results.json", _plain(facts))
            figures.save(self.figure(entries), self.out / "picture.png")
        say(*self.found(entries), f"table: {self.out / 'table.md'}")

    def found(self, entries: list[dict[str, Any]]) -> list[str]:
        """What the rows say, in words."""
        return []

    def _opened(self, model: Any) -> "EntityBench":
        from reimagen_jax.evaluation.entities.bench import EntityBench
        from reimagen_jax.evaluation.entities.inventory import Inventory
        from reimagen_jax.evaluation.rater import Rater
        from reimagen_jax.inference.pipeline import Pipeline
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        rater, inventory = Rater.open(), Inventory.read(KnowledgeBase.open(self.knowledge_base))
        rater.require_resolution(model.config.system.resolution)
        settings = dataclasses.replace(model.config.system.sampler, k=model.config.data.num_neighbours)
        pipeline = Pipeline([model.stage(settings, self.batch_size)], self.seed)
        return EntityBench(pipeline, model.digest, rater, inventory, num_prompts=self.num_prompts)


@dataclass(frozen=True)
class Steps(Bench):
    """How few evaluations keep faithfulness and alignment of many DDPM steps."""

    reference_steps: SamplerSteps = 250
    """Of DDPM, evenly spaced, guided as in the model's experiment: what all rows are compared with."""
    steps: tuple[Count, ...] = (5, 6, 8, 10, 12, 16, 25)
    """Predictions of an image, at most: Heun's method has half as many steps."""
    solvers: tuple[Solver, ...] = ("ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun", "ddpm")
    """Of the sampler."""
    spacings: tuple[Spacing, ...] = ANY_PROCESS
    """Of the times."""
    guidances: tuple[Guidance, ...] = ("stratified",)
    """How text and neighbours are strengthened."""

    def command(self) -> str:
        return _command_line("steps", self)

    def rows(self, system: ReImagenConfig) -> Iterator[Row]:
        yield _by_steps(system, "ddpm", "even", system.sampler.guidance, self.reference_steps)
        for n, solver, *rest in product(self.steps, self.solvers, self.spacings, self.guidances):
            yield _by_steps(system, solver, *rest, (n + 1) // 2 if solver == "heun" else n)

    def found(self, entries: list[dict[str, Any]]) -> list[str]:
        """The fewest evaluations that are below the first row's intervals on no split."""
        groups: dict[tuple, list[dict[str, Any]]] = {}
        for entry in entries[len(self.splits) :]:
            groups.setdefault(tuple(entry[name] for name in SHOWN_STEPS), []).append(entry)
        kept = [key for key, group in groups.items() if all(entry["kept"] for entry in group)]
        if not kept:
            return [f"no row yet keeps what {self.reference_steps} DDPM steps reach"]
        best = min(kept, key=lambda key: key[-1])
        told = ", ".join(f"{name} {value}" for name, value in zip(SHOWN_STEPS, best, strict=True))
        return [f"fewest evaluations that keep what {self.reference_steps} DDPM steps reach: {told}"]

    def figure(self, entries: list[dict[str, Any]]) -> "Figure":
        """A panel for each split and spacing: faithfulness over evaluations, a line for each solver."""
        figure, panels = _panels(len(self.splits), len(self.spacings))
        for (split, spacing), axes in zip(product(self.splits, self.spacings), panels, strict=True):
            reference = next(entry["faithful"] for entry in entries if entry["split"] == split)
            axes.axhspan(reference.low, reference.high, color="#DDDDDD", zorder=0, label="reference's interval")
            axes.set_title(f"{split}, {spacing}", loc="left", fontsize=10)
            axes.set_xlabel("evaluations of the network")
            rest = [e for e in entries[len(self.splits) :] if (e["split"], e["spacing"]) == (split, spacing)]
            for style, (solver, guidance) in zip(_styles(), _distinct(rest, "solver", "guidance"), strict=False):
                points = [e for e in rest if (e["solver"], e["guidance"]) == (solver, guidance)]
                name = solver if len(self.guidances) == 1 else f"{solver}, {guidance}"
                x, y = [e["evaluations"] for e in points], [e["faithful"].mean for e in points]
                axes.plot(x, y, label=name, **style)
            axes.set_ylim(0.0, 1.0)
        panels[0].set_ylabel("faithful")
        _legend(figure, panels)
        return figure


@dataclass(frozen=True)
class Guided(Bench):
    """Forms of guidance side by side, at equal evaluations."""

    evaluations: Count = 48
    """Of the network, for an image."""
    forms: tuple[Guidance, ...] = ("interleaved", "stratified", "joint", "compositional")
    """What is compared, beside no guidance at all."""
    variants: tuple[Variant, ...] = tuple(VARIANTS)
    """Each form with weights that rise (linear, cosine), within an interval of t, or rescaled."""
    etas: tuple[Share, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Of interleaved and stratified guidance."""
    weights: Annotated[tuple[tuple[NonNegative, NonNegative], ...], tyro.conf.arg(metavar="TEXT NEIGHBOURS ...")] = (
        (2.0, 3.0),
        (1.5, 2.0),
        (3.0, 5.0),
    )
    """Of text and neighbours, in pairs; joint guidance has the first only. Variants are drawn with the first pair."""
    solver: Solver | None = None
    """Default: as in the model's experiment."""
    spacing: Spacing | None = None
    """Default: as in the model's experiment."""

    def command(self) -> str:
        return _command_line("guidance", self)

    def rows(self, system: ReImagenConfig) -> Iterator[Row]:
        given = {"solver": self.solver, "spacing": self.spacing}
        sampler = dataclasses.replace(system.sampler, **{name: value for name, value in given.items() if value})
        plain = dataclasses.replace(sampler, guidance_interval=None, guidance_rescale=None)
        for i, pair in enumerate(self.weights):
            for form in self.forms:
                etas = self.etas if form in ("interleaved", "stratified") else (sampler.eta,)
                for eta in sorted(etas, key=lambda eta: abs(eta - sampler.eta)):
                    yield self._row(system, plain, form, pair, eta)
                for name in self.variants if i == 0 else ():
                    yield self._row(system, dataclasses.replace(plain, **VARIANTS[name]), form, pair, sampler.eta, name)
            if i == 0:
                yield self._row(system, plain, "none", (1.0, 1.0), sampler.eta)

    def _row(
        self,
        system: ReImagenConfig,
        sampler: GuidedSamplerConfig,
        form: str,
        pair: tuple[float, float],
        eta: float,
        variant: str = "-",
    ) -> Row:
        changed = {"text_weight": pair[0], "neighbour_weight": pair[1], "eta": eta}
        changed |= {"guidance": form} if form != "none" else {}
        predictions = self.evaluations // LEVELS.get(form, 2)
        changed |= {"num_steps": (predictions + 1) // 2 if sampler.solver == "heun" else predictions}
        settings = dataclasses.replace(sampler, **changed)
        told = {
            "guidance": form,
            "eta": f"{eta:g}" if form in ("interleaved", "stratified") else "-",
            "weights": {"none": "-", "joint": f"{pair[0]:g}"}.get(form, f"{pair[0]:g}, {pair[1]:g}"),
            "variant": variant,
            "steps": settings.num_steps,
            "evaluations": system.evaluations(settings, guided=form != "none"),
        }
        return Row(settings, told)

    def figure(self, entries: list[dict[str, Any]]) -> "Figure":
        """A panel for each split: faithful against aligned, whiskers of 95 %; filled: no variant of the form."""
        figure, panels = _panels(1, len(self.splits))
        for split, axes in zip(self.splits, panels, strict=True):
            own = [entry for entry in entries if entry["split"] == split]
            for style, (form,) in zip(_styles(), _distinct(own, "guidance"), strict=False):
                for entry in (entry for entry in own if entry["guidance"] == form):
                    (x, *xs), (y, *ys) = entry["aligned"], entry["faithful"]
                    filled = {} if entry["variant"] == "-" else {"markerfacecolor": "white"}
                    reach = {"xerr": [[x - xs[0]], [xs[1] - x]], "yerr": [[y - ys[0]], [ys[1] - y]]}
                    axes.errorbar(x, y, **reach, elinewidth=0.5, **(style | {"linestyle": ""} | filled))
                axes.plot([], [], label=form, **(style | {"linestyle": ""}))
            axes.set_title(split, loc="left", fontsize=10)
            axes.set_xlabel("aligned")
        panels[0].set_ylabel("faithful")
        _legend(figure, panels)
        return figure


def _by_steps(system: ReImagenConfig, solver: Solver, spacing: Spacing, guidance: Guidance, steps: int) -> Row:
    changed = {"solver": solver, "spacing": spacing, "guidance": guidance, "num_steps": steps}
    settings = dataclasses.replace(system.sampler, **changed)
    told = (solver, spacing, guidance, steps, system.evaluations(settings))
    return Row(settings, dict(zip(SHOWN_STEPS, told, strict=True)))


def compared(outcome: "Outcome", first: "Outcome") -> dict[str, Any]:
    """Both measures with their intervals, their differences from the first row's, prompt by prompt, and whether
    neither lies below its interval."""
    from reimagen_jax.evaluation.statistics import mean_ci, paired_difference_ci

    of = outcome.entity_N
    ratings = zip(MEASURES, ("faithful_NS", "aligned_NS"), strict=True)
    pairs = {measure: (getattr(outcome, name), getattr(first, name)) for measure, name in ratings}
    found: dict[str, Any] = {name: mean_ci(ours, of) for name, (ours, _) in pairs.items()}
    found |= {f"{name}, difference": paired_difference_ci(ours, theirs, of) for name, (ours, theirs) in pairs.items()}
    reference = {name: mean_ci(theirs, of) for name, (_, theirs) in pairs.items()}
    found["kept"] = all(own.low <= found[name].mean for name, own in reference.items())
    return found


def table(entries: list[dict[str, Any]]) -> list[str]:
    """A table in Markdown."""
    from reimagen_jax.reports import words

    rows = [[("yes" if v else "no") if isinstance(v, bool) else str(v) for v in e.values()] for e in entries]
    return words.table([list(entries[0]), *rows])


def _command_line(name: str, command: Bench) -> str:
    return command_line(name, command).replace("reimagen", "python tools/sampler_bench.py", 1)


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    return facts | {"settings": {name: str(v) if isinstance(v, Path) else v for name, v in facts["settings"].items()}}


def _distinct(entries: list[dict[str, Any]], *names: str) -> list[tuple]:
    return list(dict.fromkeys(tuple(entry[name] for name in names) for entry in entries))


def _panels(rows: int, columns: int) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 3.2 * columns, 3.4 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, sharey=True, squeeze=False).ravel())


def _styles() -> list[dict[str, Any]]:
    from reimagen_jax.reports.figures import COLOURS
    from reimagen_jax.reports.plots import MARKERS

    pairs = [(colour, MARKERS[(i + j) % len(MARKERS)]) for j in range(4) for i, colour in enumerate(COLOURS)]
    return [{"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.2} for colour, marker in pairs]


def _legend(figure: "Figure", panels: list["Axes"]) -> None:
    """Of all panels, each name once."""
    found: dict[str, Any] = {}
    for axes in panels:
        found |= {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside right upper", frameon=False, fontsize=9)


COMMANDS = (
    Annotated[Steps, tyro.conf.subcommand("steps", prefix_name=False)]
    | Annotated[Guided, tyro.conf.subcommand("guidance", prefix_name=False)]
)

if __name__ == "__main__":
    runtime.configure()
    sys.exit(status_of(tyro.cli(COMMANDS, description=__doc__).run))
