"""FID's Inception in PyTorch, written from what is published of it: blocks, names in the file, resizings."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Conv(nn.Module):
    def __init__(self, before, after, **how):
        super().__init__()
        self.conv = nn.Conv2d(before, after, bias=False, **how)
        self.bn = nn.BatchNorm2d(after, eps=1e-3)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def average(x):
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


WIDE, HIGH = {"kernel_size": (1, 7), "padding": (0, 3)}, {"kernel_size": (7, 1), "padding": (3, 0)}
ONE, THREE, HALF = {"kernel_size": 1}, {"kernel_size": 3, "padding": 1}, {"kernel_size": 3, "stride": 2}


class A(nn.Module):
    def __init__(self, c, pool, n):
        super().__init__()
        self.branch1x1 = Conv(c, 64 // n, **ONE)
        self.branch5x5_1, self.branch5x5_2 = Conv(c, 48 // n, **ONE), Conv(48 // n, 64 // n, kernel_size=5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(c, 64 // n, **ONE), Conv(64 // n, 96 // n, **THREE)
        self.branch3x3dbl_3, self.branch_pool = Conv(96 // n, 96 // n, **THREE), Conv(c, pool // n, **ONE)

    def forward(self, x):
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(average(x))], 1)


class B(nn.Module):
    def __init__(self, c, n):
        super().__init__()
        self.branch3x3 = Conv(c, 384 // n, **HALF)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(c, 64 // n, **ONE), Conv(64 // n, 96 // n, **THREE)
        self.branch3x3dbl_3 = Conv(96 // n, 96 // n, **HALF)

    def forward(self, x):
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class C(nn.Module):
    def __init__(self, c, inner, n):
        super().__init__()
        i, w = inner // n, 192 // n
        self.branch1x1, self.branch_pool = Conv(c, w, **ONE), Conv(c, w, **ONE)
        self.branch7x7_1, self.branch7x7_2, self.branch7x7_3 = Conv(c, i, **ONE), Conv(i, i, **WIDE), Conv(i, w, **HIGH)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Conv(c, i, **ONE), Conv(i, i, **HIGH)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Conv(i, i, **WIDE), Conv(i, i, **HIGH)
        self.branch7x7dbl_5 = Conv(i, w, **WIDE)

    def forward(self, x):
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = x
        for i in range(1, 6):
            double = getattr(self, f"branch7x7dbl_{i}")(double)
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(average(x))], 1)


class D(nn.Module):
    def __init__(self, c, n):
        super().__init__()
        w = 192 // n
        self.branch3x3_1, self.branch3x3_2 = Conv(c, w, **ONE), Conv(w, 320 // n, **HALF)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(c, w, **ONE), Conv(w, w, **WIDE)
        self.branch7x7x3_3, self.branch7x7x3_4 = Conv(w, w, **HIGH), Conv(w, w, **HALF)

    def forward(self, x):
        seven = x
        for i in range(1, 5):
            seven = getattr(self, f"branch7x7x3_{i}")(seven)
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class E(nn.Module):
    def __init__(self, c, pool, n):
        super().__init__()
        w, self.pool = 384 // n, pool
        flat, tall = {"kernel_size": (1, 3), "padding": (0, 1)}, {"kernel_size": (3, 1), "padding": (1, 0)}
        self.branch1x1, self.branch3x3_1 = Conv(c, 320 // n, **ONE), Conv(c, w, **ONE)
        self.branch3x3_2a, self.branch3x3_2b = Conv(w, w, **flat), Conv(w, w, **tall)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(c, 448 // n, **ONE), Conv(448 // n, w, **THREE)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Conv(w, w, **flat), Conv(w, w, **tall)
        self.branch_pool = Conv(c, 192 // n, **ONE)

    def forward(self, x):
        three, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        forked = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        forked += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *forked, self.branch_pool(self.pool(x))], 1)


class Inception(nn.Module):
    """All widths divided by n."""

    def __init__(self, n=1):
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Conv(3, 32 // n, **HALF), Conv(32 // n, 32 // n, kernel_size=3)
        self.Conv2d_2b_3x3, self.Conv2d_3b_1x1 = Conv(32 // n, 64 // n, **THREE), Conv(64 // n, 80 // n, **ONE)
        self.Conv2d_4a_3x3 = Conv(80 // n, 192 // n, kernel_size=3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(192 // n, 32, n), A(256 // n, 64, n), A(288 // n, 64, n)
        self.Mixed_6a = B(288 // n, n)
        for name, inner in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            setattr(self, f"Mixed_6{name}", C(768 // n, inner, n))
        self.Mixed_7a, self.Mixed_7b = D(768 // n, n), E(1280 // n, average, n)
        self.Mixed_7c = E(2048 // n, lambda x: F.max_pool2d(x, 3, 1, 1), n)
        self.fc = nn.Linear(2048 // n, 1008)

    def forward(self, x):
        """Every block's map by its name, the features by their widths, and the logits without bias."""
        found = {}
        for name, module in self.named_children():
            if name == "fc":
                break
            x = found[name] = module(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
            point = {"Conv2d_2b_3x3": 64, "Conv2d_4a_3x3": 192, "Mixed_6e": 768, "Mixed_7c": 2048}.get(name)
            if point:
                found[point] = x.mean((2, 3))
        return {**found, "logits": F.linear(found[2048], self.fc.weight)}


def random(n=1, seed=0):
    """Random weights, with statistics far from what they begin as."""
    torch.manual_seed(seed)
    net = Inception(n).eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith(("running_var", "bn.weight")):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bias")):
                value.uniform_(-0.3, 0.3)
            elif value.is_floating_point():
                value.normal_(0, (2.0 / value[0].numel()) ** 0.5)
    return net


def half_pixel(image, side=299):
    """As pytorch-fid resizes and scales a picture."""
    x = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255
    x = F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
    return (2 * x - 1)[0].numpy().transpose(1, 2, 0)


def from_the_corner(image, side=299):
    """As TensorFlow 1 resized: two products with a matrix for each side."""

    def matrix(size):
        place = np.arange(side) * (size / side)
        low = np.floor(place).astype(int)
        weights = np.zeros((side, size))
        np.add.at(weights, (np.arange(side), low), 1 - (place - low))
        np.add.at(weights, (np.arange(side), np.minimum(low + 1, size - 1)), place - low)
        return weights

    H, W, _ = image.shape
    x = np.einsum("ih,hwc,jw->ijc", matrix(H), image.astype(np.float64), matrix(W))
    return ((x - 128) / 128).astype(np.float32)
