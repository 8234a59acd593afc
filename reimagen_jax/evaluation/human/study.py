"""What people rate: a folder with the pictures of several systems under names that tell nothing, and what they are.

A task is what is rated at once: pictures of one prompt by one system. Of `best_of` of them a rater takes the best, and
rates that one:
    best_of = 4   as Re-Imagen was rated: four samples, of which the best counts
    best_of = 1   every picture by itself; the best of S is then any that was found right
manifest.json has, under checksums, all that was compared; a folder with ratings never changes what was rated.
Source: Re-Imagen (Chen et al., ICLR 2023), section 4.3: EntityDrawBench.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import MinLen

from reimagen_jax.checked import Count, Natural, Seed
from reimagen_jax.data.manifest import FileName, Folder, Manifest, open_folder
from reimagen_jax.errors import require

KIND = "human ratings"
PAPERS = 4
"""Pictures of which the best is rated in the paper."""
MOST_SHOWN = 9
"""Pictures of a task: each has a key of its own, 1 to 9."""
FREQUENT, INFREQUENT = "frequent", "infrequent"
QUESTIONS = ("photorealism", "faithfulness")


@dataclass(frozen=True)
class Shown:
    """A reference, as raters see it."""

    file: FileName
    caption: str


@dataclass(frozen=True)
class Prompt:
    """What a task's pictures were to show."""

    text: str
    category: str = ""
    frequency: str = ""
    """Of its entity in the training data: frequent, infrequent, or empty where nothing tells."""
    references: tuple[Shown, ...] = ()


@dataclass(frozen=True)
class Task:
    """Pictures that are rated at once."""

    prompt: Natural
    system: Natural
    pictures: Annotated[tuple[FileName, ...], MinLen(1)]


@dataclass(frozen=True)
class _Manifest(Manifest):
    """The fields of manifest.json."""

    seed: Seed
    best_of: Count
    images_per_prompt: Count
    systems: Annotated[tuple[str, ...], MinLen(1)]
    prompts: Annotated[tuple[Prompt, ...], MinLen(1)]
    tasks: Annotated[tuple[Task, ...], MinLen(1)]
    contents: dict[str, str]


@dataclass(frozen=True, eq=False)
class Study:
    """A folder of what people rate, opened."""

    folder: Folder = field(repr=False)
    seed: int
    best_of: int
    images_per_prompt: int
    systems: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    tasks: tuple[Task, ...]
    contents: Mapping[str, str]

    @classmethod
    def open(cls, path: str | Path) -> "Study":
        """Raises `UserError` where it is no such folder, not whole, or was changed."""
        folder = open_folder(path, KIND, _Manifest)
        folder.verify_manifest()
        m = folder.manifest
        prompts = tuple(
            Prompt(each["text"], each["category"], each["frequency"], tuple(Shown(**one) for one in each["references"]))
            for each in m["prompts"]
        )
        tasks = tuple(Task(each["prompt"], each["system"], tuple(each["pictures"])) for each in m["tasks"])
        named = {name for task in tasks for name in task.pictures}
        named |= {shown.file for prompt in prompts for shown in prompt.references}
        fits = all(task.prompt < len(prompts) and task.system < len(m["systems"]) for task in tasks)
        require(fits and named <= m["files"].keys(), f"{path} is damaged: its tasks name what is not there")
        systems = tuple(m["systems"])
        return cls(
            folder, m["seed"], m["best_of"], m["images_per_prompt"], systems, prompts, tasks, dict(m["contents"])
        )

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def checksum(self) -> str:
        """Of all that the manifest says."""
        return str(self.folder.manifest["checksum"])

    def verify(self) -> None:
        """Compares all checksums. Raises `UserError` naming what differs."""
        self.folder.verify()

    def image(self, name: str) -> bytes:
        """The PNG file of a picture. Raises `KeyError` for a name that is none of the study's."""
        if name not in self.folder.manifest["files"] or not name.endswith(".png"):
            raise KeyError(name)
        with open(self.folder / name, "rb") as file:
            return file.read()

    def require_same(self, now: Mapping[str, str]) -> None:
        """Raises `UserError` where other things are to be rated than those in the folder: by their checksums."""
        differ = [name for name in now if self.contents.get(name) != now[name]]
        told = "; ".join(
            f"{name}: {self.contents.get(name)} then, {now[name]} now"
            if name in ("systems", "best of", "seed")
            else f"other {name}"
            for name in differ
        )
        require(
            not differ,
            f"{self.path} has ratings of something else ({told}): choose another --out, or give --out alone to go on",
        )
