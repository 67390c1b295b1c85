"""The CIFAR ResNets of He et al., "Deep residual learning for image recognition" (CVPR 2016), section 4.2.

A 3x3 convolution, three stages of n blocks with 16, 32 and 64 channels at strides 1, 2 and 2, global average
pooling, one linear layer: depth 6n + 2. Shortcuts are the paper's option A, without parameters: where a stage
begins, the input is subsampled and its channels are padded with zeros. Modules are named as torchvision
names them (conv1, bn1, layer1…, fc).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

DEPTHS = (20, 32, 44, 56, 110)
NAMES = tuple(f"resnet{depth}" for depth in DEPTHS)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a bare shortcut: (N, in, H, W) → (N, out, ⌈H/stride⌉, ⌈W/stride⌉)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.extra_channels = out_channels - in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.extra_channels:
            # Zeros on both sides, half each, as the widely shared CIFAR weights of this family were trained.
            before = self.extra_channels // 2
            after = self.extra_channels - before
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, after))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """float (N, 3, H, W) → logits (N, num_classes); made for 32 px, any size of at least 4 px works.

    Args:
        depth: 6n + 2.
        num_classes: width of the head.

    Raises:
        ValueError: the depth is not 6n + 2.
    """

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        num_blocks, rest = divmod(depth - 2, 6)
        if rest or num_blocks < 1:
            raise ValueError(f"`depth` (={depth}) must be 6n + 2")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, num_blocks, stride=1)
        self.layer2 = _stage(16, 32, num_blocks, stride=2)
        self.layer3 = _stage(32, 64, num_blocks, stride=2)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


def _stage(in_channels: int, out_channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)))
