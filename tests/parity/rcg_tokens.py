"""RCG's tokenizer and MAGE in PyTorch, written from a description of the published networks, with their names."""

import math
from itertools import pairwise

import numpy as np
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


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        B, L, D = x.shape
        q, k, v = self.qkv(x).reshape(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(-1, -2) / math.sqrt(D // self.heads)).softmax(-1)
        return self.proj((weight @ v).transpose(1, 2).reshape(B, L, D))


class TransformerBlock(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class Mage(nn.Module):
    """Dropout left out: in evaluation it does nothing."""

    def __init__(self, codes, places, representation, width, heads, hidden, depth, decoder, decoder_heads):
        super().__init__()
        self.codes, self.mask = codes, codes + 1000
        self.token_emb = nn.Module()
        self.token_emb.word_embeddings = nn.Embedding(codes + 1001, width)
        self.token_emb.position_embeddings = nn.Embedding(places + 1, width)
        self.token_emb.LayerNorm = nn.LayerNorm(width, eps=1e-6)
        self.latent_prior_proj = nn.Linear(representation, width)
        self.fake_latent = nn.Parameter(torch.zeros(1, representation))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_embed = nn.Linear(width, width)
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, places + 1, width))
        self.decoder_blocks = nn.ModuleList(TransformerBlock(width, decoder_heads, hidden) for _ in range(decoder))
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlm_layer = nn.Module()
        self.mlm_layer.fc, self.mlm_layer.ln = nn.Linear(width, width), nn.LayerNorm(width)
        self.mlm_layer.bias = nn.Parameter(torch.zeros(1, 1, codes + 1001))
        self.pos_embed = nn.Parameter(torch.zeros(1, 3, 5))  # one of those that nothing reads

    def embedded(self, ids):
        emb = self.token_emb
        return emb.LayerNorm(emb.word_embeddings(ids) + emb.position_embeddings.weight[None])

    def forward(self, tokens, masked, dropped, representation):
        """Logits of the codes; `representation` None is the slot's own word. dropped is within masked."""
        B, L = tokens.shape
        ids = torch.where(masked, self.mask, tokens)
        ids = torch.cat([torch.full((B, 1), self.codes + 76), ids], 1)
        x = self.embedded(ids)
        if representation is not None:
            x = torch.cat([self.latent_prior_proj(representation)[:, None], x[:, 1:]], 1)
        slot = torch.zeros(B, 1, dtype=torch.bool)
        gone, hidden = (torch.cat([slot, each], 1) for each in (dropped, masked))
        x = x[~gone].reshape(B, -1, x.shape[-1])
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        fill = x[:, :1].repeat(1, L + 1, 1)
        y = fill.clone()
        y[~gone] = x.reshape(-1, x.shape[-1])
        y = torch.where(hidden[..., None], fill, y) + self.decoder_pos_embed_learned
        for block in self.decoder_blocks:
            y = block(y)
        y = self.mlm_layer.ln(F.gelu(self.mlm_layer.fc(self.decoder_norm(y))))
        words = self.token_emb.word_embeddings.weight.detach()
        return (y @ words.T + self.mlm_layer.bias)[:, 1:, : self.codes]

    def loss(self, logits, tokens, masked):
        log_p = logits.log_softmax(-1)
        nll = -log_p.gather(-1, tokens[..., None])[..., 0]
        loss = 0.9 * nll - 0.1 * log_p.mean(-1)
        return (loss * masked).sum() / masked.sum()

    def draw(self, representation, places, steps, tau, temperature, gumbel, noise):
        """Tokens by parallel decoding; the noise of step s is gumbel[s] [B, L, K] and noise[s] [B, L]."""
        B = len(representation)
        tokens = torch.zeros(B, places, dtype=torch.long)
        unknown = torch.ones(B, places, dtype=torch.bool)
        none = torch.zeros_like(unknown)
        for s in range(steps):
            ratio = (s + 1) / steps
            logits = self(tokens, unknown, none, representation)
            null = self(tokens, unknown, none, self.fake_latent.repeat(B, 1))
            logits = logits + tau * ratio * (logits - null)
            drawn = (logits + gumbel[s]).argmax(-1)
            tokens = torch.where(unknown, drawn, tokens)
            number = max(1, min(int(unknown[0].sum()) - 1, int(np.floor(places * np.cos(np.pi / 2 * ratio)))))
            confidence = logits.softmax(-1).gather(-1, tokens[..., None])[..., 0].log()
            confidence = confidence + temperature * (1 - ratio) * noise[s]
            confidence = torch.where(unknown, confidence, torch.inf)
            unknown = confidence <= confidence.sort(-1).values[:, number - 1 : number]
        return tokens
