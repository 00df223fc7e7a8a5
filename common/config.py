"""Configuration machinery: Hydra composes, pydantic validates, and every message is one a user can act on.

`hydra` is imported here and by the program's entry point only; TensorFlow is imported by neither.
"""

import argparse
import ast
import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from hydra import compose as compose_with_hydra
from hydra import initialize_config_dir
from hydra.conf import HelpConf, HydraConf, RunDir, SweepDir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

OUTPUTS = "experiments_outputs"
EXAMPLES = Path(__file__).parents[1] / "config_file_examples"
_TIMESTAMP = "${now:%Y_%m_%d_%H_%M_%S_%f}"
_ENVIRONMENT_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}")
_PLAIN_OVERRIDE = re.compile(r"^(?!hydra\.)[A-Za-z_][\w.]*=")
_FLAGS_WITH_VALUE = {
    *("--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd", "--package", "-p"),
    *("--cfg", "-c", "--info", "-i", "--experimental-rerun"),
}


class ConfigError(ValueError):
    """A mistake in what the user wrote; its message is shown without a traceback and the program exits with 2."""


class ToolError(RuntimeError):
    """A compiler, device or service of others failed; shown without a traceback, and the program exits with 3."""


# --------------------------------------------------------------------------------------------------------------
# Names


def suggest(received: str, choices: Iterable[str]) -> str:
    """Return `did you mean 'x'?`, or the list of choices where no name is near."""
    choices = sorted(choices)
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(received.lower(), by_lower, n=1)
    if near:
        return f"did you mean '{by_lower[near[0]]}'?"
    return f"expected one of: {', '.join(choices)}" if choices else "nothing is allowed here"


# --------------------------------------------------------------------------------------------------------------
# Spellings of values


def parse_number(value: Any) -> Any:
    """Read the spelling `a/b` of a number; anything else is returned as it is for pydantic to judge."""
    if isinstance(value, str):
        parts = value.split("/")
        try:
            numbers = [float(part) for part in parts]
        except ValueError:
            return value
        if len(numbers) == 1:
            return numbers[0]
        if len(numbers) == 2 and numbers[1] != 0:
            return numbers[0] / numbers[1]
    return value


def parse_tuple(value: Any) -> Any:
    """Read `(256, 128, 3)`, `[256, 128, 3]` or a YAML list as a tuple; anything else is returned as it is."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return tuple(value) if isinstance(value, list | tuple) else value


def parse_number_or_numbers(value: Any) -> float | tuple[float, ...]:
    """Read a number, or a list of numbers as a tuple.

    Raises:
        ValueError: it is neither.
    """
    is_list = isinstance(value, list | tuple)
    numbers = [parse_number(item) for item in (value if is_list else [value])]
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise ValueError(f"should be a valid number, or a list of one for each channel (received {value!r})")
    return tuple(map(float, numbers)) if is_list else float(numbers[0])


def _parse_path(value: Any) -> Any:
    return Path(value).expanduser() if isinstance(value, str) else value


Number = Annotated[float, BeforeValidator(parse_number)]
"""A float that may be written `1/127.5`."""

NumberOrNumbers = Annotated[
    float | tuple[float, ...],
    BeforeValidator(parse_number_or_numbers),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}}]}),
]
"""A number, or a list of one for each channel; each may be written `1/127.5`."""

Shape = Annotated[tuple[int, int, int], BeforeValidator(parse_tuple)]
"""Height, width, channels; may be written `(256, 128, 3)`."""

FilePath = Annotated[Path, BeforeValidator(_parse_path)]
"""A path; `~` is expanded, relative paths start from the working directory."""


# --------------------------------------------------------------------------------------------------------------
# Models of sections


class Strict(BaseModel):
    """Base of every section: unknown keys are refused, values are not coerced, the object is frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Component(Strict):
    """Something found by name with arguments: `Adam`, or `{Adam: {learning_rate: 0.001}}`."""

    name: str
    arguments: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_spelling(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and len(value) == 1 and "name" not in value:
            [(name, arguments)] = value.items()
            return {"name": name, "arguments": {} if arguments is None else arguments}
        if isinstance(value, Mapping) and set(value) <= {"name", "arguments"} and "name" in value:
            return value
        raise ValueError(
            "expected a name, or one name with its arguments, such as `Adam: {learning_rate: 0.001}`"
        )

    @model_serializer
    def _write_spelling(self) -> dict[str, Any]:
        return {self.name: dict(self.arguments)}


ConfigType = TypeVar("ConfigType", bound=Strict)


def validate(schema: type[ConfigType], raw: Mapping[str, Any]) -> ConfigType:
    """Validate a composed configuration.

    Raises:
        ConfigError: with every mistake at once, one line each: the key, what was expected, what was received.
    """
    try:
        return schema.model_validate(_clean(raw))
    except ValidationError as error:
        lines = [_message(schema, mistake) for mistake in error.errors(include_url=False)]
        raise ConfigError(
            "invalid configuration\n" + "\n".join(f"  {line}" for line in dict.fromkeys(lines))
        ) from None


def _clean(value: Any) -> Any:
    """Expand `${NAME}`, read the text `None` as no value, and drop nothing else."""
    if isinstance(value, Mapping):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return None if value == "None" else value


def _message(schema: type[BaseModel], mistake: Mapping[str, Any]) -> str:
    location = [str(part) for part in mistake["loc"] if not str(part).startswith(("function-", "tuple["))]
    key = ".".join(location) or "(top level)"
    kind, received = mistake["type"], mistake["input"]
    if kind == "extra_forbidden":
        return f"{key}: unknown key, {suggest(location[-1], _fields_at(schema, location[:-1]))}"
    if kind == "missing":
        return f"{key}: required, but missing"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", mistake["ctx"]["expected"])
        hint = suggest(str(received), choices)
        choices_text = "" if hint.startswith("expected") else f" (choices: {', '.join(choices)})"
        return f"{key}: unknown value {received!r}, {hint}{choices_text}"
    if kind == "value_error":
        return f"{key}: {mistake['ctx']['error']}"
    expected = mistake["msg"][0].lower() + mistake["msg"][1:]
    return f"{key}: {expected.replace('input should', 'should')} (received {received!r})"


def _fields_at(schema: type[BaseModel], location: list[str]) -> list[str]:
    """Names of the keys that the section at `location` accepts."""
    model: Any = schema
    for part in location:
        field = model.model_fields.get(part)
        candidates = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if model is None:
            return []
    return [field.alias or name for name, field in model.model_fields.items()]


# --------------------------------------------------------------------------------------------------------------
# Hydra


def plain_overrides(arguments: list[str]) -> list[str]:
    """Let `key=value` set any key of the schema, whether or not the YAML states it.

    Hydra refuses to set a key that is absent from the YAML unless the user writes `++key=value`; that check is
    the schema's here, with a better message. Parentheses, which Hydra's grammar refuses, are quoted.
    """
    result: list[str] = []
    for position, argument in enumerate(arguments):
        is_value_of_flag = position > 0 and arguments[position - 1] in _FLAGS_WITH_VALUE
        if not is_value_of_flag and _PLAIN_OVERRIDE.match(argument):
            key, value = argument.split("=", 1)
            if value.startswith("(") and value.endswith(")"):
                value = f"'{value}'"
            argument = f"++{key}={value}"
        result.append(argument)
    return result


def expand_environment(text: str) -> str:
    """Replace `${NAME}` by the environment variable; `${now:...}` and `${section.key}` are left to OmegaConf.

    Raises:
        ConfigError: the variable is not set.
    """

    def value_of(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(
                f"environment variable {name} is not set, but the configuration uses ${{{name}}}"
            )
        return os.environ[name]

    return _ENVIRONMENT_VARIABLE.sub(value_of, text)


def to_plain(composed: DictConfig) -> dict[str, Any]:
    """Turn Hydra's composed configuration into plain dicts, environment variables and interpolations resolved."""
    expanded = _map_strings(OmegaConf.to_container(composed, resolve=False), expand_environment)
    plain = OmegaConf.to_container(OmegaConf.create(expanded), resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def compose(arguments: list[str]) -> dict[str, Any]:
    """Compose a configuration from a tool's command line as the main program does, without running anything.

    Args:
        arguments: `--config-name NAME`, optionally `--config-path` and `--config-dir`, and `key=value` overrides.

    Returns:
        Plain dicts, ready for `validate`.

    Raises:
        ConfigError: no configuration is named, an option is unknown, or Hydra cannot compose what is asked.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-name", "-cn")
    parser.add_argument("--config-path", "-cp", default=EXAMPLES)
    parser.add_argument("--config-dir", "-cd")
    try:
        options, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from error
    if unknown := [argument for argument in rest if argument.startswith("-")]:
        raise ConfigError(
            f"unknown option '{unknown[0]}', expected --config-name, --config-path, --config-dir"
        )
    if options.config_name is None:
        names = ", ".join(sorted(path.name for path in EXAMPLES.glob("*.yaml")))
        raise ConfigError(
            f"no configuration is given; add --config-name NAME.yaml (in {EXAMPLES.name}/: {names})"
        )
    folders = [EXAMPLES.parent / options.config_path]
    if options.config_dir is not None:
        folders.append(Path(options.config_dir).absolute())
        # Hydra's compose looks for the named file in the first folder only.
        name = f"{options.config_name.removesuffix('.yaml')}.yaml"
        folders.sort(key=lambda folder: not (folder / name).is_file())
    searched = [f"hydra.searchpath=['file://{folder}']" for folder in folders[1:]]
    try:
        with initialize_config_dir(str(folders[0]), version_base=None):
            return to_plain(compose_with_hydra(options.config_name, plain_overrides(rest) + searched))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(str(error)) from error


def _map_strings(value: Any, function: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _map_strings(item, function) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_strings(item, function) for item in value]
    return function(value) if isinstance(value, str) else value


class UniqueRunFolder(Callback):
    """Gives each run a folder of its own: a pattern of whole seconds collides, so a suffix is added."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Claim `hydra.run.dir`, or the first of `<dir>_1`, `<dir>_2`, ... that does not exist."""
        raw = OmegaConf.to_container(config.hydra.run, resolve=False)
        assert isinstance(raw, dict)
        with open_dict(config):
            config.hydra.run.dir = expand_environment(str(raw["dir"]))
            folder = _own_folder(Path(config.hydra.run.dir).absolute(), config)
            candidate, suffix = folder, 0
            while True:
                try:
                    candidate.mkdir(parents=True, exist_ok=False)
                    break
                except FileExistsError:
                    suffix += 1
                    candidate = folder.with_name(f"{folder.name}_{suffix}")
            config.hydra.run.dir = str(candidate)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Expand environment variables in `hydra.sweep.dir`; workers that write no results get a folder beside it."""
        with open_dict(config):
            raw = OmegaConf.to_container(config.hydra.sweep, resolve=False)
            assert isinstance(raw, dict)
            folder = Path(expand_environment(str(raw["dir"])))
            config.hydra.sweep.dir = str(_own_folder(folder, config))


def _own_folder(folder: Path, config: DictConfig) -> Path:
    """The folder itself; for the workers of a distributed training that write no results, one beside it."""
    from common.cluster import cluster_task

    if OmegaConf.select(config, "training.distribution") != "multi_worker":
        return folder
    try:
        worker, _ = cluster_task()
    except ConfigError:  # reported when the run starts
        return folder
    return folder.with_name(f"{folder.name}_worker_{worker}") if worker else folder


def install_hydra_defaults(app_name: str, help_text: str) -> None:
    """Replace Hydra's own defaults (run folder, help); a YAML or the command line may still override them."""
    ConfigStore.instance().store(
        group="hydra",
        name="config",
        node=HydraConf(
            run=RunDir(f"{OUTPUTS}/{_TIMESTAMP}"),
            sweep=SweepDir(dir=f"{OUTPUTS}/multirun/{_TIMESTAMP}", subdir="${hydra.job.num}"),
            callbacks={"unique_run_folder": {"_target_": f"{__name__}.{UniqueRunFolder.__name__}"}},
            help=HelpConf(app_name=app_name, header=help_text, footer="", template="${hydra.help.header}\n"),
        ),
        provider="application",
    )
