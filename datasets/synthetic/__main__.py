"""`python -m datasets.synthetic --preset demo --root DIR`: make a data set, or a picture of one."""

import argparse
import sys
from pathlib import Path

from common.config import ConfigError
from datasets.synthetic import PRESETS, generate
from datasets.synthetic._contact_sheet import contact_sheet
from datasets.synthetic.layouts import LAYOUT_ONLY, LAYOUTS


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.synthetic", description="Make synthetic people."
    )
    parser.add_argument("--preset", choices=PRESETS, default="demo")
    parser.add_argument("--root", type=Path, help="folder to make")
    parser.add_argument("--layout", choices=LAYOUTS, default="market1501")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contact-sheet", type=Path, metavar="PNG", help="picture to make")
    options = parser.parse_args(arguments)
    if not (options.root or options.contact_sheet):
        parser.error("nothing to do: give --root DIR, --contact-sheet PNG or both")
    try:
        if options.root:
            print(generate(options.preset, options.root, options.layout, options.seed))
            if options.layout in LAYOUT_ONLY:
                print(
                    f"Layout only: {LAYOUT_ONLY[options.layout]} is near-infrared, these images are thermal; scores on "
                    "them say nothing of it.",
                    file=sys.stderr,
                )
        if options.contact_sheet:
            print(contact_sheet(options.preset, options.contact_sheet, options.seed))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
