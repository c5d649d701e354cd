"""Code that reads untrusted files opens them through cupola.files only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "cupola"
READING = ("config", "weights", "bundles", "data", "metrics")
METHODS = {"read_text", "read_bytes", "open"}
CALLS = {
    "open", "io.open", "os.open", "gzip.open", "Image.open", "json.load", "pickle.load",
    "pickle.loads", "np.load", "np.loadtxt", "np.fromfile", "np.memmap", "torch.load",
    "torch.from_file", "h5py.File", "zarr.open", "xr.open_dataset", "xr.open_zarr",
    "xr.open_mfdataset", "safe_open", "load_file", "zipfile.ZipFile", "ZipFile", "tarfile.open",
    "yaml.load", "tomllib.load", "Tokenizer.from_file", "mmap.mmap",
}  # fmt: skip
# file: what it opens by itself, and why that is safe.
ALLOWED = {
    "config/formats.py": "parses text, by a loader without tags",
    "config/source.py": "checks kind and size itself, against the budget",
    "weights/mdlus.py": "reads archives that read_checkpoint has checked",
    "weights/reading.py": "maps files that read_checkpoint has checked",
    "weights/sources.py": "maps files of a folder, headers checked",
    "weights/stored_type.py": "maps files whose headers are checked",
    "weights/torch_files.py": "maps files that read_checkpoint has checked",
    "bundles/writing.py": "hashes what it has written",
    "data/driving/clip.py": "reads a cache that it wrote, without pickled objects",
    "data/hdf5_fields.py": "opens files after check_scientific",
    "data/openimages_files.py": "reads an array from bytes, without pickled objects",
    "data/package_fields.py": "unpacks a wheel of a pinned package",
    "data/sources.py": "reads photographs of installed packages",
    "data/text_sources.py": "reads files of unpacked Debian packages",
    "metrics/nuscenes_official.py": "reads what its own child process wrote",
    "metrics/nuscenes_runner.py": "reads what its own parent process wrote",
}


def name_of(call: ast.Call) -> str:
    """The dotted name of what is called; ".name" for the method of another expression."""
    target = call.func
    if isinstance(target, ast.Name):
        return target.id
    if isinstance(target, ast.Attribute):
        owner = target.value
        return f"{owner.id}.{target.attr}" if isinstance(owner, ast.Name) else f".{target.attr}"
    return ""


def openings(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of each call that opens a file for reading."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node)
        modes = [each.value for each in node.args if isinstance(each, ast.Constant)]
        if any(isinstance(mode, str) and mode[:1] in ("w", "a", "x") for mode in modes):
            continue
        if name in CALLS or ("." in name and name.rpartition(".")[2] in METHODS):
            yield node.lineno, name


@pytest.mark.parametrize("package", READING)
def test_files_are_opened_in_one_place(package: str) -> None:
    found = [
        f"{path.relative_to(SOURCE)}:{line}: {name}"
        for path in sorted((SOURCE / package).rglob("*.py"))
        if str(path.relative_to(SOURCE)) not in ALLOWED
        for line, name in openings(path.read_text())
    ]
    assert not found, "\n".join([*found, "open them by cupola.files"])


def test_exceptions_are_needed() -> None:
    unused = [name for name in ALLOWED if not any(openings((SOURCE / name).read_text()))]
    assert not unused


def test_an_opening_is_noticed() -> None:
    text = "open(p)\nPath(p).read_text()\nnp.load(p)\nopen(p, 'w')\nwith p.open('rb'): pass"
    assert [line for line, _ in openings(text)] == [1, 2, 3, 5]
