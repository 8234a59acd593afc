# %% [markdown]
# # Drawing and sweeping with the shipped model
#
# What Re-Imagen does, from Python, with the weights in the package and the embedded world EntityWorld. Run it as a
# script, or cell by cell in an editor that knows `# %%`. Two minutes on two CPU cores; it writes to `runs/tour_draw`.

# %%
from pathlib import Path

import numpy as np

import reimagen_jax as rj
from reimagen_jax.commands.index import Index
from reimagen_jax.commands.prepare import Prepare
from reimagen_jax.data.entityworld import World

OUT = Path("runs/tour_draw")

# %% [markdown]
# ## A knowledge base
#
# Every command is a dataclass: its options are the fields, `run` does it. A small world: 60 invented creatures and
# things, some of which the model has never seen in training, each in several pictures with captions.

# %%
WORLD = World(num_entities=60, num_images=600)
Prepare(out=OUT / "records", resolution=32, world=WORLD, overwrite=True).run()
Index(OUT / "records", out=OUT / "index", overwrite=True).run()
base = rj.open_knowledge_base(OUT / "index")
print(f"{len(base)} pictures; the first: {base.records[0].text!r}")

# %% [markdown]
# ## Asking
#
# A prompt says what is wanted; what the knowledge base is asked for is a query of its own, here the entity's name. The
# names are of this world, so we take one from it.

# %%
name = next(record.attributes["entity"] for record in base.records if record.attributes["split"] == "unseen")
category = next(r.attributes["category"] for r in base.records if r.attributes["entity"] == name)
text = f"a big {category} {name} on the left, in the forest at dusk"
prompts = rj.ask(base, [text], queries=[name], k=2)
for neighbour in prompts[0].neighbours:
    print(f"{neighbour.score:6.2f}  {neighbour.text}")

# %% [markdown]
# ## Drawing
#
# The same noise with the neighbours and without: only what the model sees differs. Each image is saved with all that it
# was drawn from; `reimagen reproduce` draws it again.

# %%
model = rj.open_model("shipped")
with_neighbours = rj.draw(model, prompts, num_images=4)
without = rj.draw(model, rj.ask(base, [text], k=0), num_images=4)
with_neighbours.save(OUT / "with", overwrite=True)
without.save(OUT / "without", overwrite=True)
differ = np.mean(with_neighbours.image_PSHWC != without.image_PSHWC)
print(f"{differ:.0%} of the bytes differ; look at {OUT / 'with' / 'grid.png'}")

# %% [markdown]
# ## Sweeping
#
# eta is the share of denoising steps that strengthen the text; the others strengthen the neighbours. It is a traced
# number: a sweep compiles once. `report.html` opens in a browser.

# %%
rj.sweep(model, prompts, etas=(0.0, 0.5, 1.0)).save(OUT / "sweep", overwrite=True)

# %% [markdown]
# Any settings can be swept against each other. The table tells what each costs, in evaluations of the network.

# %%
grid = rj.sweep(model, prompts, over={"eta": (0.0, 1.0), "steps": (4, 8)})
grid.save(OUT / "grid", overwrite=True)
print((OUT / "grid" / "report.html").stat().st_size, "bytes of report")
