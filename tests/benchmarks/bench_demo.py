"""Minutes and memory of the demo without the installation; the bars are 8 minutes and 4 GB.

As long as the demo: six to eight minutes on 2 cores.
"""

import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

ROOT, MINUTES, GIGABYTES = Path(__file__).parents[2], 8.0, 4.0


def main() -> int:
    """Render the data anew, run the demo, print what it took; 1 when a bar is missed."""
    shutil.rmtree(ROOT / "datasets/synthetic_demo", ignore_errors=True)
    start = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(sys.executable, str(ROOT / "stm32ai_main.py"), "--config-name", "chain_tqeb_config.yaml"),
                *(f"hydra.run.dir={folder}/run", f"mlflow.uri={folder}/mlruns"),
            ],
            cwd=ROOT,
            check=True,
        )
    minutes = (perf_counter() - start) / 60
    gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"demo: {minutes:.1f} minutes (bar: {MINUTES}), {gigabytes:.1f} GB at its peak (bar: {GIGABYTES})")
    return int(minutes > MINUTES or gigabytes > GIGABYTES)


if __name__ == "__main__":
    sys.exit(main())
