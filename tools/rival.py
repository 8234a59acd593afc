"""The base U-Net of lucidrains' imagen-pytorch, set up like ours, for tools/bench.py to time beside it.

    python tools/rival.py SETTING PARAMETERS [compiled]    # takes turns, as wide as gives it so many parameters

Its settings are those of that package's own `BaseUnet64` (Imagen's base network), with width and depth given. It is
trained in PyTorch as users do: eager mode, or by torch.compile, AdamW, mean squared error; on a GPU under bfloat16
autocast.

Only its U-Net is imported: the package imports image augmentation (torchvision, kornia) and a text encoder
(transformers) at its top, which the U-Net does not use. What of these is not installed is stood in for by an empty
module while importing; the bench prints which.
"""

import contextlib
import functools
import importlib
import importlib.util
import io
import json
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import turns  # beside this file

UNUSED = ("torchvision", "torchvision.transforms", "kornia", "kornia.augmentation")
TEXT = "imagen_pytorch.t5"


def installed() -> bool:
    """Whether PyTorch, imagen-pytorch and what its U-Net needs can be imported."""
    return all(importlib.util.find_spec(name) for name in ("torch", "imagen_pytorch", "einops", "beartype"))


@dataclass(frozen=True)
class Setting:
    """What both networks have in common."""

    side: int
    dim: int
    """Channels of the first level; the others have 2, 3 and 4 times as many."""
    blocks: int
    heads: int
    head_width: int
    text_width: int
    tokens: int
    batch: int


@functools.cache
def import_unet() -> tuple[type, list[str]]:
    """The U-Net's class, and the modules that were stood in for."""
    missing = [name for name in UNUSED if importlib.util.find_spec(name.split(".")[0]) is None]
    with _stand_ins([*missing, TEXT]):
        # The package's __init__ would import its trainer too: a bare package in its place finds the same files.
        package = types.ModuleType("imagen_pytorch")
        package.__path__ = list(importlib.util.find_spec("imagen_pytorch").submodule_search_locations)
        sys.modules["imagen_pytorch"] = package
        module = importlib.import_module("imagen_pytorch.imagen_pytorch")
    return module.Unet, [*missing, TEXT]


def import_sampler() -> type:
    """The class that draws with a U-Net."""
    import_unet()
    return sys.modules["imagen_pytorch.imagen_pytorch"].Imagen


@contextlib.contextmanager
def _stand_ins(names: list[str]) -> Iterator[None]:
    for name in names:
        module = types.ModuleType(name)
        module.__path__ = []
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, module)
        sys.modules[name] = module
    text = sys.modules[TEXT]
    text.DEFAULT_T5_NAME, text.t5_encode_text, text.get_encoded_dim = "none", lambda *_, **__: None, lambda _: None
    yield
    for name in names:
        del sys.modules[name]


class Rival:
    """The network with its optimizer; `train` and `guided` do one step each and wait for it."""

    def __init__(self, setting: Setting, compiled: bool = False):
        import torch

        unet, self.stood_in_for = import_unet()
        how = "torch.compile" if compiled else "eager"
        self.name = f"imagen-pytorch {version('imagen-pytorch')}, PyTorch {torch.__version__}, {how}"
        self.setting = setting
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        self.network = _build(unet, setting).to(self.device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)
        shape = (setting.batch, 3, setting.side, setting.side)
        self.x, self.eps = (torch.randn(shape, device=self.device) for _ in range(2))
        self.t = torch.rand(setting.batch, device=self.device)
        self.text = torch.randn(setting.batch, setting.tokens, setting.text_width, device=self.device)
        self.mask = torch.ones(setting.batch, setting.tokens, dtype=torch.bool, device=self.device)
        if compiled:  # as a whole, with what is called besides `forward`
            self.network.forward = torch.compile(self.network.forward)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def _autocast(self) -> contextlib.AbstractContextManager:
        import torch

        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")

    def train(self) -> None:
        """Forward, backward, AdamW."""
        import torch

        self.network.train()
        with self._autocast():
            prediction = self.network(self.x, self.t, text_embeds=self.text, text_mask=self.mask, cond_drop_prob=0.1)
        loss = torch.nn.functional.mse_loss(prediction.float(), self.eps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._wait()

    def guided(self) -> None:
        """One denoising step's prediction with classifier-free guidance: two evaluations."""
        import torch

        self.network.eval()
        with torch.no_grad(), self._autocast():
            self.network.forward_with_cond_scale(
                self.x, self.t, text_embeds=self.text, text_mask=self.mask, cond_scale=3.0
            )
        self._wait()

    def sampler(self, num_steps: int) -> Any:
        """What draws with the network, `sample(...)`: ancestral sampling with dynamic thresholding."""
        imagen = import_sampler()
        text = {"text_embed_dim": self.setting.text_width}
        return imagen(self.network, image_sizes=self.setting.side, timesteps=num_steps, **text).to(self.device)

    def forward_flops(self) -> float:
        """Of one image, as PyTorch counts them (products and convolutions, padding included)."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        self.network.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.network(self.x, self.t, text_embeds=self.text, text_mask=self.mask)
        return counter.get_total_flops() / len(self.x)

    def _wait(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()


def matching(setting: Setting, parameters: int, step: int = 8) -> Setting:
    """The setting with the width, a multiple of `step`, at which the network has most nearly so many parameters."""
    wider = replace(setting, dim=step)
    while count_parameters(wider) < parameters:
        wider = replace(wider, dim=wider.dim + step)
    return min(
        (wider, replace(wider, dim=max(wider.dim - step, step))), key=lambda s: abs(count_parameters(s) - parameters)
    )


def count_parameters(setting: Setting) -> int:
    """Of the network, without allocating them."""
    import torch

    unet, _ = import_unet()
    with torch.device("meta"):
        return sum(p.numel() for p in _build(unet, setting).parameters())


def _build(unet: type, setting: Setting) -> Any:
    """`BaseUnet64` of that package, but for width, depth and text."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints advice about widths
        return unet(
            dim=setting.dim,
            text_embed_dim=setting.text_width,
            max_text_len=setting.tokens,
            num_resnet_blocks=setting.blocks,
            dim_mults=(1, 2, 3, 4),
            attn_heads=setting.heads,
            attn_dim_head=setting.head_width,
            ff_mult=2.0,
            layer_attns=(False, True, True, True),
            layer_cross_attns=(False, True, True, True),
            memory_efficient=False,
        )


def serve(setting: Setting, parameters: int, compiled: bool = False) -> None:
    """Takes turns, alone in this process."""
    with contextlib.redirect_stdout(sys.stderr):
        theirs = Rival(matching(setting, parameters), compiled)
        facts = {"name": theirs.name, "stood_in_for": theirs.stood_in_for, "parameters": theirs.parameters}
        facts |= {"width": theirs.setting.dim, "forward_flops": theirs.forward_flops()}
    turns.serve(facts, {"train": theirs.train, "guided": theirs.guided})


if __name__ == "__main__":
    serve(Setting(**json.loads(sys.argv[1])), int(sys.argv[2]), sys.argv[3:] == ["compiled"])
