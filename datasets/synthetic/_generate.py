"""Render a preset into a folder, with every core, and always the same bytes."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.config import ConfigError, suggest
from common.images import encoded
from common.run import python_environment, usable_cores
from datasets.synthetic._random import rng_of
from datasets.synthetic._render import render
from datasets.synthetic.camera import Camera, make_camera, random_pose
from datasets.synthetic.identity import make_identity
from datasets.synthetic.layouts import CROSS_MODAL, LAYOUT_ONLY, LAYOUTS, LISTS, Shot
from datasets.synthetic.presets import PRESETS, Preset

VERSION = 2  # increase it whenever a change makes other pixels: folders made before are then refused
_MANIFEST = "synthetic.json"
_TRACKS = "tracks.csv"
_PARTY = 3  # people
_IN_PROCESS = 500  # with fewer images than this, starting processes takes longer than rendering


def generate(
    preset: str, root: Path, layout: str = "market1501", seed: int = 0, progress: bool = True
) -> Path:
    """Render a preset into `root`, unless it is there already.

    The same preset, seed, layout and generator version give the same bytes, whatever the number of processes.
    The folder appears under its name only when it is complete.

    Args:
        preset: A name in `PRESETS`.
        root: The folder to make. It may exist when it is empty or holds this very data set.
        layout: A name in `LAYOUTS`.
        seed: Another seed gives other people, cameras and images.
        progress: Whether to show a progress bar.

    Returns:
        `root`, which holds the layout's folders and lists, `synthetic.json` and, for presets with tracks, `tracks.csv`.

    Raises:
        ConfigError: an unknown preset or layout, a layout of two modalities for a preset of one, or `root` holds
            something else.
    """
    for kind, name, known in (("preset", preset, PRESETS), ("layout", layout, LAYOUTS)):
        if name not in known:
            raise ConfigError(f"unknown {kind} '{name}' of synthetic people, {suggest(name, known)}")
    if layout in CROSS_MODAL and "thermal" not in {modality for modality, _ in PRESETS[preset].cameras}:
        several = [
            name
            for name, other in PRESETS.items()
            if any(modality == "thermal" for modality, _ in other.cameras)
        ]
        raise ConfigError(
            f"layout {layout} has two modalities, and preset {preset} has visible cameras only; use one of "
            f"{', '.join(several)}"
        )
    root = Path(root)
    wanted = _manifest(preset, layout, seed)
    if _is_there(root, wanted):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        unfinished.chmod(0o755)
        _write(unfinished, preset, layout, seed, progress)
        (unfinished / _MANIFEST).write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        try:
            unfinished.replace(root)
        except OSError:  # another process may have finished the same folder first
            if not _is_there(root, wanted):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


def shots(preset: Preset) -> Iterator[Shot]:
    """Yield every image of a preset."""
    first = 1
    for split, identities in (("train", preset.train), ("val", preset.val), ("test", preset.test)):
        roles = ["train"] * preset.train_images
        if split != "train":
            roles = ["query"] * preset.query_images + ["gallery"] * preset.gallery_images
        for identity in range(first, first + identities):
            for camera, (modality, scene) in enumerate(preset.cameras, 1):
                sensor = sum(other == modality for other, _ in preset.cameras[:camera])
                for index, role in enumerate(roles):
                    if preset.track > 1:
                        track, frame = 1 + index // preset.track, index % preset.track
                        party = _parties(first, identities, scene, track)[identity - first]
                    else:
                        track, frame, party = 0, _scattered(identity, camera, index), 0
                    yield Shot(
                        split, role, identity, camera, scene, track, frame, modality, sensor, index + 1, party
                    )
        first += identities


def render_shot(preset: Preset, seed: int, shot: Shot) -> np.ndarray:
    """Render one image of a data set, (H, W, 3) or (H, W, 1) uint8; no other image is needed for it."""
    camera = _camera(preset, seed, shot.camera)
    who = make_identity(seed, shot.identity, preset.population)
    if preset.track == 1:
        return render(who, camera, rng_of(preset.population, seed, 4, shot.identity, shot.camera, shot.frame))
    # Sensors of one scene hang side by side and see one walk; light, optics and noise are each sensor's own.
    mount = next(number for number, (_, scene) in enumerate(preset.cameras, 1) if scene == shot.scene)
    start = rng_of(preset.population, seed, 5, shot.identity, shot.scene, shot.track)
    walk = random_pose(_camera(preset, seed, mount), start)
    rng = rng_of(preset.population, seed, 6, shot.identity, shot.camera, shot.track)
    return render(who, camera, rng, walk.after(shot.frame))


@cache
def _camera(preset: Preset, seed: int, number: int) -> Camera:
    return make_camera(preset, seed, number)


@cache
def _parties(first: int, people: int, scene: int, track: int) -> list[int]:
    """Return the party, from 1, of each person of a split, in which they are seen on one walk."""
    places = rng_of(0, 7, first, scene, track).permutation(people)
    return [1 + int(place) // _PARTY for place in places]


def _scattered(identity: int, camera: int, index: int) -> int:
    """Return a frame number that is unique within a camera's images of an identity and says nothing else."""
    return 1 + (7919 * identity + 104_729 * camera + 611_953 * index) % 999_983


def _manifest(preset: str, layout: str, seed: int) -> dict[str, Any]:
    """Return the contents of `synthetic.json`, which describe the folder's bytes completely."""
    settings = PRESETS[preset]
    # Left out where it is 0: nobody has to make those data sets anew because there is another population.
    population = {"population": settings.population} if settings.population else {}
    recipe = {
        "generator": VERSION,
        "preset": preset,
        "seed": seed,
        "layout": layout,
        "settings": {key: value for key, value in asdict(settings).items() if key != "population"},
        **population,
    }
    if settings.track > 1:
        recipe["parties"] = _PARTY
    everything = list(shots(settings))
    images = Counter(
        shot.split if shot.split == "train" else f"{shot.split}_{shot.role}" for shot in everything
    )
    cameras = {str(number): modality for number, (modality, _) in enumerate(settings.cameras, 1)}
    scenes = {str(number): scene for number, (_, scene) in enumerate(settings.cameras, 1)}
    note = {}
    if layout in LAYOUT_ONLY:
        note["note"] = f"layout only: thermal images where {LAYOUT_ONLY[layout]} has near-infrared ones"
    return {
        "content_key": hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16],
        "generator": VERSION,
        "preset": preset,
        "seed": seed,
        "layout": layout,
        **population,
        **note,
        "cameras": cameras,
        "scenes": scenes,
        "identities": {"train": settings.train, "val": settings.val, "test": settings.test},
        "images": dict(images),
        "size": [settings.height, settings.width],
    }


def _is_there(root: Path, wanted: dict[str, Any]) -> bool:
    """Return whether `root` holds the wanted data set; raise when it holds anything else."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise ConfigError(f"cannot make synthetic people in '{root}': it is a file")
    manifest = root / _MANIFEST
    if not manifest.is_file():
        found = sorted(path.name for path in root.iterdir())
        if not found:
            return False
        raise ConfigError(
            f"cannot make synthetic people in '{root}': the folder holds {len(found)} entries, for example "
            f"'{found[0]}', and no {_MANIFEST}; choose an empty or new folder"
        )
    try:
        found_manifest = json.loads(manifest.read_text(encoding="utf-8"))
        there = _told(found_manifest)
        same = found_manifest.get("content_key") == wanted["content_key"]
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ConfigError(
            f"'{manifest}' is not a description of synthetic people; remove '{root}'"
        ) from error
    if not same:
        raise ConfigError(
            f"'{root}' holds other synthetic people: {there}; asked for {_told(wanted)}. "
            "Remove that folder or choose another one"
        )
    return True


def _told(manifest: dict[str, Any]) -> str:
    """What tells the contents of a folder from those of another."""
    known = {key: manifest.get(key) for key in ("preset", "seed", "layout", "generator")}
    known["population"] = manifest.get("population", 0)
    return ", ".join(f"{key} {value}" for key, value in known.items())


def _write(root: Path, preset: str, layout: str, seed: int, progress: bool) -> None:
    settings = PRESETS[preset]
    everything = list(shots(settings))
    for folder in {Path(LAYOUTS[layout](shot)).parent for shot in everything}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in LISTS[layout](everything).items() if layout in LISTS else ():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    if settings.track > 1:
        _write_tracks(root, layout, everything)
    workers = usable_cores() if len(everything) >= _IN_PROCESS else 1
    write = write_share if workers == 1 else _write_by_processes
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task(f"Synthetic people '{preset}'", total=len(everything))
        for _ in write(root, preset, layout, seed, 0, workers):
            bar.advance(task)


def write_share(root: Path, preset: str, layout: str, seed: int, worker: int, workers: int) -> Iterator[int]:
    """Write the images of one of several workers, and yield after each."""
    settings = PRESETS[preset]
    for number, shot in enumerate(islice(shots(settings), worker, None, workers)):
        quality = _camera(settings, seed, shot.camera).quality
        (root / LAYOUTS[layout](shot)).write_bytes(encode(render_shot(settings, seed, shot), quality))
        yield number


def _write_by_processes(
    root: Path, preset: str, layout: str, seed: int, _: int, workers: int
) -> Iterator[int]:
    """Write everything with fresh processes, and yield after each image.

    Not `multiprocessing`: forking a process that has TensorFlow's threads can hang, and spawning imports the
    caller's main script once more, which a script without a main guard or a notebook does not survive.
    """
    command = [sys.executable, "-m", "datasets.synthetic._worker", str(root), preset, layout, str(seed)]
    done, report = os.pipe()
    processes = [
        subprocess.Popen([*command, str(worker), str(workers)], stdout=report, env=python_environment())
        for worker in range(workers)
    ]
    os.close(report)
    try:
        with os.fdopen(done) as lines:
            for number, _line in enumerate(lines):
                yield number
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(codes):
        raise RuntimeError(f"rendering synthetic people '{preset}' failed: exit codes {codes}, see above")


def encode(image: np.ndarray, quality: int) -> bytes:
    """Return an RGB or one-channel image as JPEG."""
    if image.shape[-1] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return encoded(image, "a rendered person", ".jpg", (cv2.IMWRITE_JPEG_QUALITY, quality))


def _write_tracks(root: Path, layout: str, everything: list[Shot]) -> None:
    """Write which file shows which frame of which walk, and with whom.

    Frames of one track and number are simultaneous, and those of one camera, party and number are one frame.
    """
    with (root / _TRACKS).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            ("file", "split", "identity", "camera", "modality", "scene", "track", "frame", "party")
        )
        for shot in everything:
            track = f"{shot.identity:04d}s{shot.scene + 1}t{shot.track}"
            party = f"{shot.split}-t{shot.track}-{shot.party}"
            row = (
                shot.split,
                shot.identity,
                shot.camera,
                shot.modality,
                shot.scene,
                track,
                shot.frame,
                party,
            )
            table.writerow((LAYOUTS[layout](shot), *row))
