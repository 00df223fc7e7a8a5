"""A folder of files that belong together, with their checksums, and the same as a zip."""

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

CHECKSUMS = "SHA256SUMS"
_OLDEST = (1980, 1, 1, 0, 0, 0)  # of a zip


def write_package(folder: Path, files: Mapping[str, Path | str]) -> Path:
    """Write a package as `folder` and as `folder.zip`; one of an earlier run is replaced.

    Both appear under their names only when they are complete. Equal files make an equal zip, byte by byte: sorted, with
    fixed times and permissions, and not compressed, since compressors differ between machines and INT8 weights hardly
    shrink.

    Args:
        folder: Where to; its name is also that of the folder inside the zip.
        files: Name in the package to a file to copy, or to text.

    Returns:
        The zip. `SHA256SUMS`, added to both, is checked by `sha256sum -c SHA256SUMS`.

    Raises:
        ValueError: a name holds a folder, or is that of the checksums.
    """
    for name in files:
        if Path(name).name != name or name in ("..", CHECKSUMS):
            raise ValueError(f"expected plain file names other than {CHECKSUMS}, received '{name}'")
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = folder.with_name(f"{folder.name}.zip")
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}_", dir=folder.parent) as scratch:
        whole, packed = Path(scratch, folder.name), Path(scratch, archive.name)
        whole.mkdir()
        for name, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, whole / name)
            else:
                (whole / name).write_text(content, encoding="utf-8")
        sums = [f"{_sha256(whole / name)}  {name}\n" for name in sorted(files)]
        (whole / CHECKSUMS).write_text("".join(sums), encoding="utf-8")
        _zip(whole, packed)
        if folder.exists():
            folder.rename(Path(scratch, "replaced"))
        whole.rename(folder)
        packed.replace(archive)
    return archive


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _zip(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.iterdir()):
            entry = zipfile.ZipInfo(f"{folder.name}/{path.name}", _OLDEST)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix, rw-r--r--
            entry.file_size = path.stat().st_size
            with path.open("rb") as source, archive.open(entry, "w") as written:
                shutil.copyfileobj(source, written)
