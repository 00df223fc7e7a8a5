"""PyTorch's side of `bench_agw_throughput`, run by the Python of its own environment.

Trains a ResNet-50 with last stride 1 by SGD on cross-entropy, images in `channels_last`. A line on standard input is a
precision and a number of steps; the answer is a line with the seconds of each step, as JSON.
"""

import contextlib
import json
import sys
from time import perf_counter

import torch

from tests.torch_networks import ResNet


def main(batch: int, height: int, width: int, identities: int) -> None:
    torch.manual_seed(0)
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    images = torch.rand(batch, 3, height, width).mul(2).sub(1).to(memory_format=torch.channels_last)
    labels = torch.arange(batch) // 4
    arms = {}
    for line in sys.stdin:
        precision, count = line.split()
        if precision not in arms:
            network = ResNet(classes=identities).to(memory_format=torch.channels_last)
            arms[precision] = (
                network,
                torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4),
            )
        network, optimizer = arms[precision]
        seconds = []
        for _ in range(int(count)):
            start = perf_counter()
            step(network, optimizer, images, labels, precision == "bfloat16")
            seconds.append(perf_counter() - start)
        print(json.dumps(seconds), flush=True)


def step(network, optimizer, images, labels, in_bfloat16: bool) -> None:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16) if in_bfloat16 else contextlib.nullcontext():
        logits = network.fc(network(images))
    torch.nn.functional.cross_entropy(logits.float(), labels).backward()
    optimizer.step()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
