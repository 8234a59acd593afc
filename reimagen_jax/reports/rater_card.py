"""What there is to know of a rater, for people: the table of its accuracy, and the card beside its weights."""

from collections.abc import Mapping
from typing import Any

from clu import parameter_overview

from reimagen_jax.data.entityworld import CATEGORIES, LOOK_PARAMETERS, NUM_PARAMETERS, SCENE_PARAMETERS
from reimagen_jax.evaluation.rater import Rater, world_version
from reimagen_jax.evaluation.rater_check import lowest, shortfalls
from reimagen_jax.evaluation.statistics import Interval

CARD = """# A rater of EntityWorld images, {resolution} x {resolution} pixels

Reads off an image which category of entity it shows, the {num_parameters} parameters of its look, and the scene (place,
position, size, time of day). With it `reimagen evaluate`, `sweep` and `demo` say of every image whether it is
*faithful* (category and look right) and *aligned* (what the caption tells of the scene right).

- Network: {num_weights:,} weights, stored as float16. It reads the scene, straightens the body by what it has read, and
  reads the look (`reimagen_jax/systems/rater/net.py`).
- Trained on {num_renders:,} renders of looks and scenes drawn independently and uniformly, none seen twice, most of
  them slightly blurred or noised. World version `{world}`.
- Made by `{command}`.
- Not meant for anything but EntityWorld. An image that shows no entity gets readings like any other.

## Accuracy

Measured on {num_images:,} fresh renders; 95 % intervals in brackets. `reimagen rater check` measures it again.

```
{table}
```
"""


def table(metrics: Mapping[str, Any]) -> str:
    """The measured accuracy as aligned lines of text."""
    parameters = metrics["parameters"]
    name, share = lowest(metrics)
    lines = [
        f"ceiling: true renders called faithful  {_share(metrics['faithful'])}",
        f"         true renders called aligned   {_share(metrics['aligned'])}",
        f"called faithful to a look with one parameter changed  {_share(metrics['deceived'])}",
        f"lowest accuracy of a parameter: {name} {share:.4f}",
        f"the same of softened renders: faithful {_share(metrics['softened']['faithful'])}, "
        f"aligned {_share(metrics['softened']['aligned'])}, lowest {lowest(metrics['softened'])[1]:.4f}",
        "",
        "share of renders in which a parameter is read right:",
        _row("", [("category", parameters["category"])]),
        _row("scene", [(p.name, parameters.get(p.name)) for p in SCENE_PARAMETERS]),
    ]
    for category in CATEGORIES:
        shares = [(p.name, parameters.get(f"{category}.{p.name}")) for p in LOOK_PARAMETERS[category]]
        half = NUM_PARAMETERS // 2
        lines += [_row(category, shares[:half]), _row("", shares[half:])]
    return "\n".join(line.rstrip() for line in lines)


def verdict(metrics: Mapping[str, Any]) -> str:
    """One line for each thing that keeps the rater from being fit for use, or one line that says it is."""
    return "\n".join(f"not good enough: {problem}" for problem in shortfalls(metrics)) or "fit for use"


def card(rater: Rater, command: str, num_renders: int) -> str:
    """The README of a folder with a rater."""
    return CARD.format(
        resolution=rater.config.resolution,
        num_parameters=NUM_PARAMETERS,
        num_weights=parameter_overview.count_parameters(rater.params),
        num_renders=num_renders,
        world=world_version(),
        command=command,
        num_images=rater.metrics["num_images"],
        table=table(rater.metrics),
    )


def _share(interval: Interval | list[float]) -> str:
    mean, low, high = interval
    return f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def _row(head: str, shares: list[tuple[str, Interval | list[float] | None]]) -> str:
    """Shares by name; none of what no image has shown."""
    cells = "".join(f"{name} {'-' if share is None else f'{share[0]:.4f}'}".ljust(25) for name, share in shares)
    return f"  {head:<10}{cells}"
