"""The command line: `python stm32ai_main.py --config-name chain_tqeb_config.yaml [section.key=value ...]`."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from common.artifacts import ReportFailedError
from common.config import ConfigError, ToolError, install_hydra_defaults, plain_overrides, to_plain, validate
from src.schema import Config

EXAMPLES = Path(__file__).parent / "config_file_examples"
_EXIT_CODES = {ConfigError: 2, ReportFailedError: 1, ToolError: 3}
_SEED = "general.global_seed="
HELP = """Re-identification models, from training to INT8 on the Qualcomm QCS8550. The key operation_mode chooses:
training, distillation, adaptation, quantization, evaluation, prediction, benchmarking, deployment, or a chain of them.

usage: python stm32ai_main.py --config-name NAME.yaml [section.key=value ...]

  --config-name NAME   a YAML file of config_file_examples/
  --config-path DIR    another folder; a relative one starts from the folder of stm32ai_main.py
  --config-dir DIR     a further folder to search; a relative one starts from the working directory
  section.key=value    sets any key of docs/CONFIGURATION.md, whether or not the YAML states it
  --cfg job            print the composed configuration and stop
  --multirun           run all combinations of key=value1,value2
  --hydra-help         all options of Hydra

exit codes: 0 done, 1 a check of the results failed, 2 a mistake in the configuration or the data, 3 a compiler, device
or service failed; anything else that goes wrong ends with a traceback and 1
"""


@hydra.main(version_base=None, config_path="config_file_examples", config_name=None)
def _run(composed: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    try:
        _run_composed(to_plain(composed), hydra_config)
    except (*_EXIT_CODES, OmegaConfBaseException) as error:
        if hydra_config.mode == RunMode.MULTIRUN:  # the other jobs go on
            raise
        code = _answer(error)
        _remove_unused(Path(hydra_config.runtime.output_dir))
        # Hydra passes this on as it is, and would put all overrides before an error.
        raise SystemExit(code) from error


def _run_composed(raw: dict[str, Any], hydra_config: HydraConf) -> None:
    if not raw:
        names = ", ".join(sorted(path.name for path in EXAMPLES.glob("*.yaml")))
        raise ConfigError(
            f"no configuration is given; add --config-name NAME.yaml (in {EXAMPLES.name}/: {names})"
        )
    config = validate(Config, raw)
    from src.pipeline import run_services

    sweep = Path(hydra_config.sweep.dir).absolute() if hydra_config.mode == RunMode.MULTIRUN else None
    folder = Path(hydra_config.runtime.output_dir)
    run_services(config, folder, composed=raw, arm=_arm(hydra_config), sweep=sweep)


def _remove_unused(folder: Path) -> None:
    """Remove the folder of a run that was refused before it wrote anything: the corrected one gets its name."""
    if {path.name for path in folder.iterdir()} <= {".hydra", f"{Path(__file__).stem}.log"}:
        shutil.rmtree(folder, ignore_errors=True)  # a network drive keeps the open log


def _answer(error: Exception) -> int:
    """Print an error that is not one of this program, and return its exit code."""
    print(f"error: {error}", file=sys.stderr)
    return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 2)


def _arm(hydra_config: HydraConf) -> str:
    """The file and the overrides of a run but the seed, a line each."""
    overrides = (text.lstrip("+") for text in hydra_config.overrides.task)
    parts = [str(hydra_config.job.config_name), *(text for text in overrides if not text.startswith(_SEED))]
    return "\n".join(parts)


def main() -> int:
    """Run the program; returns the exit code, or raises SystemExit with it.

    0, or 1 where a check of the results failed (gate, checklist), 2 for a mistake in the configuration or the data, 3
    where a compiler, a device or a service of others failed. Errors of this program itself keep their traceback.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions arrive here instead of being printed by Hydra
    install_hydra_defaults("stm32ai_main.py", HELP)
    sys.argv[1:] = plain_overrides(sys.argv[1:])
    try:
        _run()
    except (*_EXIT_CODES, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        return _answer(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
