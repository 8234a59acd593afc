# %% [markdown]
# # From a folder of pictures to a model, and to what it is worth
#
# The way of the data from Python: every command is a dataclass whose fields are its options. The pictures are signs
# that this script draws, each in three styles; put your own folder in their place. Few steps, so that it takes minutes:
# with `STEPS` of 2,000 there are signs to be seen. Everything is written to `runs/tour_own`.

# %%
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import reimagen_jax as rj
from reimagen_jax.commands import train
from reimagen_jax.commands.evaluate_pictures import Pictures
from reimagen_jax.commands.index import Index
from reimagen_jax.commands.prepare import Prepare
from reimagen_jax.commands.prompt_options import AskingOptions, PromptOptions
from reimagen_jax.commands.sampling_options import SamplingOptions
from reimagen_jax.commands.split import Split
from reimagen_jax.commands.triples import BuildTriples
from reimagen_jax.data.records import Records
from reimagen_jax.inference.prompts import Prompt

OUT = Path("runs/tour_own")
EXPERIMENT = Path(__file__).with_name("images32.py")
STEPS = 12

# %% [markdown]
# ## A folder
#
# Image files, and `metadata.jsonl` beside them: a line for each, its file, its text, and any fields that tell what it
# shows. Fields are worth having: by them neighbours are asked for, parts are split, and pictures are judged.

# %%
PHOTOS, NUMBER, SIDE = OUT / "photos", 40, 64
STYLES = {"plain": ("white", "filled"), "outlined": ("white", "lines"), "night": ("#101830", "filled")}
COLOURS = ("crimson", "darkorange", "gold", "seagreen", "royalblue", "purple")


def draw_sign(number: int, style: str) -> Image.Image:
    """A star, or a heap of stars: points, depth, turn and colour are the sign's own."""
    rng, (background, how) = np.random.default_rng(number), STYLES[style]
    image = Image.new("RGB", (SIDE, SIDE), background)
    points, depth, turn = int(rng.integers(3, 9)), rng.uniform(0.3, 0.8), rng.uniform(0, math.tau)
    for k in range(int(rng.integers(1, 4))):
        radius, centre = SIDE * rng.uniform(0.2, 0.45), SIDE * rng.uniform(0.35, 0.65, 2)
        corners = []
        for i in range(2 * points):
            angle, r = turn + math.pi * i / points, radius * (1 if i % 2 == 0 else depth)
            corners.append((centre[0] + r * math.cos(angle), centre[1] + r * math.sin(angle)))
        colour = COLOURS[int(rng.integers(len(COLOURS)))]
        ImageDraw.Draw(image).polygon(corners, fill=colour if how == "filled" else None, outline=colour, width=2 + k)
    return image


names = [
    f"{a}{b}" for a in ("kal", "mor", "sen", "tib", "vox", "ruz", "pel", "dax") for b in ("an", "ek", "il", "or", "um")
]
lines = []
for number, name in enumerate(names[:NUMBER]):
    for style in STYLES:
        path = PHOTOS / style / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_sign(number, style).save(path)
        text = f"the sign {name}, {style}"
        fields = {"file_name": f"{style}/{name}.png", "text": text, "entity": name, "style": style}
        lines.append(json.dumps(fields))
(PHOTOS / "metadata.jsonl").write_text("\n".join(lines) + "\n")

# %% [markdown]
# ## Records, and a part that is held out
#
# A fifth of the signs are never trained on, in any style; all of them can be looked up.

# %%
Prepare(source=str(PHOTOS), out=OUT / "all", resolution=32, overwrite=True).run()
Split(OUT / "all", out=OUT / "parts", by=("entity",), unseen=0.2, overwrite=True).run()
Index(OUT / "all", out=OUT / "index", overwrite=True).run()

# %% [markdown]
# ## Triples
#
# Each record with its neighbours: the same sign in other styles. Where a sign has too few, it has fewer, rather than
# wrong ones. Look at `triples/triples.png` before training: what is wrong there is learned.

# %%
by_sign = AskingOptions(query_by=("entity",), exclude_same=("style",))
BuildTriples(
    OUT / "parts" / "train", knowledge_base=OUT / "index", out=OUT / "triples", asking=by_sign, overwrite=True
).run()

# %% [markdown]
# ## Training
#
# From the shipped weights, which know how to look at neighbours. After any stop, the same call goes on where it was.

# %%
settings = ["--train.num-steps", str(STEPS), "--train.warmup-steps", "4", "--train.log-every", "4"]
settings += ["--data.validation-share", "0.2", "--train.validate-every", "6", "--train.validate-examples", "16"]
settings += ["--train.sample-every", "0", "--data.batch-size", "8"]
train.main([str(EXPERIMENT), "--workdir", str(OUT / "run"), "--data.triples", str(OUT / "triples"), *settings])

# %% [markdown]
# ## Drawing what it has never seen
#
# The base is asked as in training (`like=model`): by the sign's name, in other styles than the one wanted.

# %%
model, base = rj.open_model(OUT / "run"), rj.open_knowledge_base(OUT / "index")
reference = Records.open(OUT / "parts" / "reference")
name = next(record.attributes["entity"] for record in reference if record.attributes["split"] == "unseen")
wanted = [Prompt(f"the sign {name}, {style}", attributes={"entity": name, "style": style}) for style in STYLES]
prompts = rj.ask(base, wanted, k=2, like=model)
for prompt in prompts:
    print(prompt.text, "<-", [neighbour.text for neighbour in prompt.neighbours])
rj.draw(model, prompts, num_images=2, num_steps=6).save(OUT / "drawn", overwrite=True)

# %% [markdown]
# ## What it is worth
#
# Are the sign and the style right, as judges see it that have learned from the true pictures? With neighbours, without,
# and with wrong ones. `results.html` opens in a browser.

# %%
Pictures(
    OUT / "run",
    OUT / "quality",
    PromptOptions(records=OUT / "parts" / "reference", knowledge_base=OUT / "index", limit=6),
    how=SamplingOptions(num_images=1, steps=4),
).run()
