import hashlib
import os
import stat
import zipfile

import pytest

from common.deployment.package import write_package


@pytest.fixture
def files(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * 9)
    return {"weights.bin": path, "card.md": "# Größe\n"}


def test_folder_and_zip_hold_the_same(files, tmp_path):
    archive = write_package(tmp_path / "out/package", files)
    folder = tmp_path / "out/package"
    assert {path.name for path in folder.iterdir()} == {"weights.bin", "card.md", "SHA256SUMS"}
    assert (folder / "weights.bin").read_bytes() == files["weights.bin"].read_bytes()
    assert (folder / "card.md").read_text(encoding="utf-8") == "# Größe\n"
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == ["package/SHA256SUMS", "package/card.md", "package/weights.bin"]
        for name in packed.namelist():
            assert packed.read(name) == (tmp_path / "out" / name).read_bytes()
        assert {stat.filemode(entry.external_attr >> 16) for entry in packed.infolist()} == {"-rw-r--r--"}


def test_the_checksums_are_those_of_sha256sum(files, tmp_path):
    write_package(tmp_path / "package", files)
    expected = "".join(
        f"{hashlib.sha256((tmp_path / 'package' / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("card.md", "weights.bin")
    )
    assert (tmp_path / "package/SHA256SUMS").read_text() == expected


def test_equal_files_make_an_equal_zip_whatever_their_order_time_and_rights(files, tmp_path):
    first = write_package(tmp_path / "a/package", files).read_bytes()
    os.utime(files["weights.bin"], (1e9, 1e9))
    files["weights.bin"].chmod(0o700)
    second = write_package(tmp_path / "b/package", dict(reversed(files.items()))).read_bytes()
    assert first == second
    files["card.md"] += "more"
    assert write_package(tmp_path / "c/package", files).read_bytes() != first


def test_an_earlier_package_is_replaced_whole(files, tmp_path):
    write_package(tmp_path / "package", {**files, "old.txt": "old"})
    archive = write_package(tmp_path / "package", files)
    assert not (tmp_path / "package/old.txt").exists()
    assert "package/old.txt" not in zipfile.ZipFile(archive).namelist()


def test_a_failure_leaves_the_earlier_package_and_nothing_half_written(files, tmp_path):
    archive = write_package(tmp_path / "out/package", files)
    before = archive.read_bytes()
    with pytest.raises(FileNotFoundError):
        write_package(tmp_path / "out/package", {**files, "missing.bin": tmp_path / "missing.bin"})
    assert archive.read_bytes() == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"package", "package.zip"}


@pytest.mark.parametrize("name", ["../evil", "sub/file", "SHA256SUMS", ".."])
def test_names_with_folders_and_of_the_checksums_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="expected plain file names other than SHA256SUMS, received"):
        write_package(tmp_path / "package", {name: "text"})
    assert not (tmp_path / "package").exists()
