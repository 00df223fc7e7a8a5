"""How good the latency estimate is: `python -m src.tools.latency_model [GRAPH.onnx ...]`.

Prints each published network with its latency as estimated from all the others, and an estimate for each graph given.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from common.config import ConfigError
from common.deployment.latency_model import estimate_latency, fit_latency, leave_one_out, read_table


def main() -> int:
    """Print the table and the estimates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("graphs", nargs="*", type=Path, help="ONNX graphs to estimate")
    graphs = parser.parse_args().graphs
    rows = read_table()
    estimated = leave_one_out(rows)
    errors = estimated / [row.milliseconds for row in rows] - 1
    print(
        "QCS8550 (Proxy), W8A8, batch 1, QNN DLC, published by Qualcomm AI Hub; estimated without the network:"
    )
    print(f"{'network':26}{'GMAC':>8}{'operators':>11}{'published ms':>14}{'estimate ms':>13}{'error':>8}")
    for row, milliseconds, error in zip(rows, estimated, errors, strict=True):
        counts = f"{row.features.macs / 1e9:8.2f}{row.features.operators:11}"
        print(f"{row.model:26}{counts}{row.milliseconds:14.3f}{milliseconds:13.3f}{error:+8.0%}")
    model = fit_latency(rows)
    print(f"absolute error: median {np.median(np.abs(errors)):.0%}, greatest {np.abs(errors).max():.0%}")
    print(
        f"ms = max({model.ms_per_gmac:.4f} * GMAC, {model.ms_per_megabyte:.4f} * MB of weights)"
        f" + {model.ms_per_operator:.5f} * operators + {model.normalization_ms:.2f} if the graph normalizes the image,"
        f" at least {model.floor_ms}"
    )
    failed = 0
    for graph in graphs:
        try:
            print(f"{graph}: {estimate_latency(graph)}")
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = 2
    return failed


if __name__ == "__main__":
    sys.exit(main())
