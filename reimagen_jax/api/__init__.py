"""Re-Imagen from Python: open a model and a knowledge base, ask, draw, sweep over eta, save with provenance.

    import reimagen_jax as rj

    model, base = rj.open_model("shipped"), rj.open_knowledge_base("runs/world/index")
    prompts = rj.ask(base, ["Zorbel on a hill at night"], queries=["Zorbel"], k=2)
    drawing = rj.draw(model, prompts, num_images=4, eta=0.5)
    drawing.save("runs/drawn")
    rj.seed_select(model, prompts, rj.open_encoder("runs/world/encoder"), k=0, num_steps=10).save("runs/seeds")
    rj.sweep(model, prompts, etas=(0.0, 0.5, 1.0)).save("runs/sweep")
    rj.sweep(model, prompts, over={"eta": (0.0, 0.5, 1.0), "steps": (10, 25)}).save("runs/grid")

The commands of `reimagen` do the same by the same functions; what they add are options and messages.
"""

from reimagen_jax.api.asking import ask, open_encoder, open_knowledge_base, open_model
from reimagen_jax.api.drawing import Drawing, complete, draw, draw_by, draw_into, pipeline_facts, pipeline_of
from reimagen_jax.api.editing import Edited, edit, edit_by
from reimagen_jax.api.grids import GRID, GridWords, SweptGrid, model_at, sweep, sweep_grid
from reimagen_jax.api.searching import SEARCH, Searched, search_by, seed_select
from reimagen_jax.api.sweeping import IMAGES, Swept, later_facts, report_settings, sweep_by

__all__ = [
    "GRID",
    "IMAGES",
    "SEARCH",
    "Drawing",
    "Edited",
    "GridWords",
    "Searched",
    "Swept",
    "SweptGrid",
    "ask",
    "complete",
    "draw",
    "draw_by",
    "draw_into",
    "edit",
    "edit_by",
    "later_facts",
    "model_at",
    "open_encoder",
    "open_knowledge_base",
    "open_model",
    "pipeline_facts",
    "pipeline_of",
    "report_settings",
    "search_by",
    "seed_select",
    "sweep",
    "sweep_by",
    "sweep_grid",
]
