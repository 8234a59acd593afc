"""`reimagen reproduce`: images drawn again from what they tell of themselves, and compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from reimagen_jax.checked import Options
from reimagen_jax.errors import require
from reimagen_jax.progress import say

if TYPE_CHECKING:
    from reimagen_jax.inference.reproduce import Again

DIFFERENT = 1
"""The exit status where an image is not what it was; as diff and cmp have it."""


@dataclass(frozen=True)
class Reproduce(Options):
    """Draw images again, and tell how far they are from what they were:
        reimagen reproduce runs/cats/000-a-cat-0.png
        reimagen reproduce runs/cats
        reimagen reproduce sent.png --model runs/train --knowledge-base runs/index --out runs/again

    A picture of `reimagen sample` tells in itself (and NAME.json beside it) what it was drawn from. On the same kind of
    device, with the same versions, it is drawn again bit for bit. Of a picture of `reimagen edit` or `unclip`, the
    command is named that draws it again. The exit status is 0 where all images are equal, 1 where one differs, 2 where
    one cannot be drawn.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE|JSON|FOLDER ...")]
    """Pictures, what lies beside them, or folders of them."""
    model: tuple[Path, ...] = ()
    """Folders of the models that drew them, in any order, or `shipped` (default: where they were then)."""
    knowledge_base: tuple[Path, ...] = ()
    """Knowledge bases that have their neighbours (default: where they were then). They may have grown."""
    reference: tuple[Path, ...] = ()
    """Image files of neighbours that were given by hand (default: where they were then)."""
    low_res: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE")] = None
    """The image that was enlarged (default: where it was then)."""
    text_encoder: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """As for `reimagen sample`."""
    out: Path | None = None
    """Folder to write the new images to, each with a picture of both beside each other (NAME-compared.png)."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    def run(self) -> int:
        """Draws and compares; returns the exit status. Raises `UserError` on bad options or input."""
        from contextlib import nullcontext

        from reimagen_jax.files import atomic_dir
        from reimagen_jax.inference.reproduce import Reproducer, pictures_of

        require(len(self.images) > 0, "nothing to draw again: give a picture, or a folder of them")
        where = Reproducer(self.model, self.knowledge_base, self.reference, self.low_res, self.text_encoder)
        number = equal = 0
        kept = (
            nullcontext() if self.out is None else atomic_dir(self.out, kind="reproduction", overwrite=self.overwrite)
        )
        with kept as folder:
            for again in where.draw(pictures_of(self.images)):
                number, equal = number + 1, equal + again.equal
                say(f"{again.path}: {_verdict(again)}")
                if folder is not None:
                    _keep(again, number, folder)
        say(f"{equal} of {number} images are equal" + (f"; the new ones are in {self.out}" if self.out else ""))
        return 0 if equal == number else DIFFERENT


def _verdict(again: "Again") -> str:
    if again.equal:
        return "equal"
    difference, changed = again.difference(), again.changed()
    if difference is not None:
        said = f"differs by at most {difference[0]} of 255 grey levels, {difference[1]:.3g} on average"
    else:
        said = "differs from what was drawn" if again.before is None else "is of another size than what is drawn now"
    if again.as_drawn:
        return f"{said}; the file was changed since: what is drawn now is what was drawn then"
    return "; ".join([said, *changed] if changed else [said, "versions and device are the same"])


def _keep(again: "Again", number: int, folder: Path) -> None:
    """Writes the new picture, and both beside each other with what differs."""
    import numpy as np

    from reimagen_jax.inference.origin import save_image
    from reimagen_jax.reports.grids import labelled_grid

    name = again.path.stem if not (folder / f"{again.path.stem}.png").exists() else f"{again.path.stem}-{number}"
    save_image(folder / f"{name}.png", again.image, again.origin)
    rows, heads = [again.before, again.image], ["then", "now"]
    if again.difference() is not None:
        levels = np.abs(again.before.astype(int) - again.image)
        rows.append((levels * (255 // max(int(levels.max()), 1))).astype(np.uint8))
        heads.append("what differs, strengthened")
    labelled_grid([rows], [again.told.prompt], heads, side=192).save(folder / f"{name}-compared.png")
