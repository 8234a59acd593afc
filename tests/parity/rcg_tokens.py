"""RCG's tokenizer in PyTorch, written from a description of the published network, with their names."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.GroupNorm):
    """Group norm and swish."""

    def forward(self, x):
        x = super().forward(x)
        return x * torch.sigmoid(x)


def norm(width, groups):
    return Norm(groups, width, eps=1e-6)


class Block(nn.Module):
    """The shortcut, where there is one, is of the branch."""

    def __init__(self, width, out, groups):
        super().__init__()
        self.norm1, self.norm2 = norm(width, groups), norm(out, groups)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        if width != out:
            self.nin_shortcut = nn.Conv2d(out, out, 1, bias=False)

    def forward(self, x):
        h = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return self.nin_shortcut(h) + h if hasattr(self, "nin_shortcut") else x + h


class Level(nn.Module):
    def __init__(self, widths, groups, upsample=False):
        super().__init__()
        self.block = nn.ModuleList(Block(a, b, groups) for a, b in pairwise(widths))
        if upsample:
            self.upsample = nn.Module()
            self.upsample.conv = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)


class Middle(nn.Module):
    def __init__(self, width, groups):
        super().__init__()
        self.block_1, self.block_2 = Block(width, width, groups), Block(width, width, groups)

    def forward(self, x):
        return self.block_2(self.block_1(x))


class Encoder(nn.Module):
    def __init__(self, widths, blocks, groups, code_width):
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        before = [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(Level([a] + [b] * blocks, groups) for a, b in zip(before, widths, strict=True))
        self.mid = Middle(widths[-1], groups)
        self.norm_out, self.conv_out = norm(widths[-1], groups), nn.Conv2d(widths[-1], code_width, 1)

    def forward(self, x):
        x = self.conv_in(x)
        for i, level in enumerate(self.down):
            for block in level.block:
                x = block(x)
            if i < len(self.down) - 1:
                x = F.avg_pool2d(x, 2)
        return self.conv_out(self.norm_out(self.mid(x)))


class Decoder(nn.Module):
    def __init__(self, widths, blocks, groups, code_width):
        super().__init__()
        self.conv_in = nn.Conv2d(code_width, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], groups)
        before = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            Level([a] + [b] * blocks, groups, upsample=i > 0)
            for i, (a, b) in enumerate(zip(before, widths, strict=True))
        )
        self.norm_out, self.conv_out = norm(widths[0], groups), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z):
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            for block in level.block:
                x = block(x)
            if hasattr(level, "upsample"):
                x = level.upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(self.norm_out(x))


class VQ(nn.Module):
    """Images [B, 3, H, W] in [0, 1]."""

    def __init__(self, widths, blocks, groups, codes, code_width):
        super().__init__()
        self.encoder = Encoder(widths, blocks, groups, code_width)
        self.decoder = Decoder(widths, blocks, groups, code_width)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(codes, code_width)

    def tokens(self, x):
        z = self.encoder(x).permute(0, 2, 3, 1)
        return torch.cdist(z.reshape(-1, z.shape[-1]), self.quantize.embedding.weight).argmin(1).reshape(z.shape[:3])

    def decode(self, tokens):
        return self.decoder(self.quantize.embedding(tokens).permute(0, 3, 1, 2))
