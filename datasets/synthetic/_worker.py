"""`python -m datasets.synthetic._worker ROOT PRESET LAYOUT SEED WORKER WORKERS`: one line out per image."""

import sys
from pathlib import Path

import cv2

from datasets.synthetic._generate import write_share

if __name__ == "__main__":
    root, preset, layout, seed, worker, workers = sys.argv[1:]
    cv2.setNumThreads(1)  # the other workers have the other cores
    for _ in write_share(Path(root), preset, layout, int(seed), int(worker), int(workers)):
        print(flush=True)
