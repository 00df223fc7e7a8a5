"""ResNet and AGW in PyTorch, as published: modules are called as in the projects' checkpoints.

It needs PyTorch alone, which is no dependency of the product.
"""

import torch
from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, channels, width, stride, downsample):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        projection = nn.Conv2d(channels, 4 * width, 1, stride, bias=False)
        self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * width)) if downsample else None

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        y = self.bn3(self.conv3(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu_()


class ResNet(nn.Module):
    def __init__(self, depths=(3, 4, 6, 3), classes=0):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for stage, depth in enumerate(depths):
            width, blocks = 64 * 2**stage, []
            for block in range(depth):
                stride = (1, 2, 2, 1)[stage] if block == 0 else 1  # the last stride as in re-identification
                blocks.append(Bottleneck(channels, width, stride, block == 0))
                channels = 4 * width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        if classes:
            self.fc = nn.Linear(channels, classes)

    def stem(self, x):
        return nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu_(), 3, 2, padding=1)

    def forward(self, x):
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x))))).mean(dim=(2, 3))


class NonLocal(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.g = nn.Sequential(nn.Conv2d(channels, 1, 1))
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), nn.BatchNorm2d(channels))
        self.theta, self.phi = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, 1, 1)

    def forward(self, x):
        theta, phi, g = (part(x).flatten(2) for part in (self.theta, self.phi, self.g))  # (N, 1, HW)
        affinity = theta.transpose(1, 2) @ phi / phi.shape[-1]
        return x + self.W((affinity @ g.transpose(1, 2)).transpose(1, 2).reshape(len(x), 1, *x.shape[2:]))


class Stem(nn.Module):
    def __init__(self, modality):
        super().__init__()
        setattr(self, modality, ResNet())


class Agw(nn.Module):
    def __init__(self, identities):
        super().__init__()
        self.visible_module, self.thermal_module = Stem("visible"), Stem("thermal")
        self.base_resnet = Stem("base")
        self.NL_2 = nn.ModuleList([NonLocal(512) for _ in range(2)])
        self.NL_3 = nn.ModuleList([NonLocal(1024) for _ in range(3)])
        self.bottleneck = nn.BatchNorm1d(2048)
        self.classifier = nn.Linear(2048, identities, bias=False)

    def forward(self, visible, thermal):
        maps = [self.visible_module.visible.stem(visible), self.thermal_module.thermal.stem(thermal)]
        x, base = torch.cat(maps), self.base_resnet.base
        x = base.layer1(x)
        for stage, blocks in ((base.layer2, self.NL_2), (base.layer3, self.NL_3)):
            for index, block in enumerate(stage):
                x = block(x)
                number = index - (len(stage) - len(blocks))  # after the last blocks of a stage
                x = blocks[number](x) if number >= 0 else x
        pooled = ((base.layer4(x) ** 3).mean(dim=(2, 3)) + 1e-12) ** (1 / 3)
        return self.bottleneck(pooled)
