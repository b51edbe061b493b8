"""Folders, patterns and lists stand for rasters."""

import re
from pathlib import Path

import pytest

from footprints.errors import RasterError
from footprints.raster.listing import list_rasters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.tif", "A1.TIFF", "notes.md", "c d ü.tif"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_stands_for_its_rasters_by_name(folder):
    assert list_rasters(folder) == [str(folder / n) for n in ("A1.TIFF", "b.tif", "c d ü.tif")]


def test_patterns_files_and_addresses(folder):
    b = str(folder / "b.tif")
    assert list_rasters(str(folder / "?.tif")) == [b]
    assert list_rasters([b, folder / "*.TIFF"]) == [b, str(folder / "A1.TIFF")]
    assert list_rasters("s3://bucket/scene.tif") == ["s3://bucket/scene.tif"]
    assert list_rasters("/vsicurl/https://host/a.tif?key=1") == [
        "/vsicurl/https://host/a.tif?key=1"
    ]


def test_a_file_named_like_a_pattern_is_that_file(folder):
    odd = folder / "odd?.tif"
    odd.touch()
    assert list_rasters(odd) == [str(odd)]


def test_a_list_is_read_line_by_line_from_its_folder(folder):
    lines = [
        "# the north",
        "b.tif",
        "",
        "  c d ü.tif ",
        "https://host/x.tif",
        str(folder / "A1.TIFF"),
    ]
    (folder / "scenes.txt").write_text("\n".join(lines), encoding="utf-8")
    names = ("b.tif", "c d ü.tif")
    expected = [*(str(folder / n) for n in names), "https://host/x.tif", str(folder / "A1.TIFF")]
    assert list_rasters(folder / "scenes.txt") == expected


@pytest.mark.parametrize("name", ["", "*.jp2", "empty.txt"])
def test_where_there_is_no_raster_it_is_said(tmp_path, name):
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(RasterError, match=r"no raster in .*; name a file, a folder"):
        list_rasters(tmp_path / name)


def test_a_list_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(RasterError, match=r"cannot read the list .*none\.txt: No such file"):
        list_rasters(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RasterError, match="it is no text"):
        list_rasters(tmp_path / "binary.txt")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("*.jp2", "no raster in .*; name a file"),
        ("more.txt", "a list names no other lists; give each by itself"),
        ("scenes.txt", "a list names no other lists"),
    ],
)
def test_the_line_of_a_list_that_cannot_be_followed_is_named(tmp_path, line, reason):
    (tmp_path / "scenes.txt").write_text(f"# the south\na.tif\n{line}\n")
    place = rf"^{re.escape(str(tmp_path / 'scenes.txt'))}, line 3, '{re.escape(line)}': {reason}"
    with pytest.raises(RasterError, match=place):
        list_rasters(tmp_path / "scenes.txt")
