"""Hostile files: one clear error that names file and line, within a second and 200 MB."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.bombs import DATA, LINEAR, PYTHON
from config.hostile import HOSTILE
from config.pace import second
from cupola.config import Config
from cupola.errors import ConfigError


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_with_one_clear_error(name: str, tmp_path: Path) -> None:
    suffix, text, message = HOSTILE[name]
    path = tmp_path / f"here{suffix}"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    assert time.process_time() - began < second()
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert re.search(message, str(caught.value))


def test_all_of_them_together_stay_under_200_megabytes(tmp_path: Path) -> None:
    for index, (suffix, text, _) in enumerate(HOSTILE.values()):
        (tmp_path / f"file{index}{suffix}").write_text(text)
    with (tmp_path / "huge.py").open("wb") as file:
        file.truncate(100_000_000)
    (tmp_path / "dense.py").write_text("x = [" + "a," * 85_000 + "]")
    code = (
        "import sys, pathlib, re\n"
        "from cupola.config import Config\n"
        "from cupola.errors import ConfigError\n"
        "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    try: Config.load(path)\n"
        "    except ConfigError: pass\n"
        # getrusage would tell the peak of the process that forked us, too
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 200e6


CHILD = """
import json, re, resource, sys, time
from pathlib import Path
from cupola.config import Config
from cupola.errors import ConfigError
resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9, 2 * 10**9))
def read(path):
    began, end = time.process_time(), ""
    try:
        Config.load(path)
    except ConfigError as error:
        end = str(error)
    return time.process_time() - began, end
for path in sorted(Path(sys.argv[1]).iterdir()):
    seconds, end = read(path)
    for _ in range(4):  # a processor that others slow down; the least time is the file's
        seconds = min(seconds, read(path)[0]) if seconds > 0.5 else seconds
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    print(json.dumps([path.name, seconds, int(peak) * 1024, end]))
"""


def outcomes(folder: Path, files: list[tuple[str, str]]) -> list[str]:
    """Reads the files in a process with little memory; the error of each, or an empty text."""
    for index, (suffix, text) in enumerate(files):
        (folder / f"f{index:03d}{suffix}").write_text(text)
    done = subprocess.run([sys.executable, "-c", CHILD, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ends = []
    for line in done.stdout.splitlines():
        name, seconds, peak, end = json.loads(line)
        assert seconds < second(), (name, end)
        assert peak < 200e6, (name, end)
        assert "\n" not in end
        if end:
            assert re.match(rf"{re.escape(str(folder / name))}:(\d+:)? ", end), end
        ends.append(end)
    return ends


@pytest.mark.parametrize("kind", [*PYTHON, *DATA])
def test_what_would_cost_memory_or_time_is_refused(kind: str, tmp_path: Path) -> None:
    files = DATA[kind] if kind in DATA else [(".py", text) for text in PYTHON[kind]]
    for end, (_, text) in zip(outcomes(tmp_path, files), files, strict=True):
        assert end, f"this was read: {text[:60]}...{text[-60:]}"


def test_a_text_that_nearly_holds_substitutions_takes_linear_time(tmp_path: Path) -> None:
    ends = outcomes(tmp_path, [(".py", text) for text in LINEAR])
    assert ends == [""] * len(LINEAR)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "here.py"
    path.write_bytes(b"x = 1\ny = '\xff\xfe'\n")
    with pytest.raises(ConfigError, match=r"here\.py:2: not UTF-8"):
        Config.load(path)
    path.write_bytes("x = 'ä'".encode("utf-8-sig"))  # a byte order mark is harmless
    assert Config.load(path).x == "ä"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(ConfigError, match="100000000 bytes; a config has at most 180000"):
        Config.load(path)
    with pytest.raises(ConfigError, match="no such config file"):
        Config.load(tmp_path / "missing.py")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(ConfigError, match="not a regular file"):
        Config.load(tmp_path / "folder.py")
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(ConfigError, match="not a regular file"):
        Config.load(tmp_path / "pipe.py")


def test_a_cycle_over_several_files_and_a_link_that_leads_out(tmp_path: Path) -> None:
    inside = tmp_path / "project" / "configs"
    inside.mkdir(parents=True)
    (inside / "a.py").write_text("_base_ = 'b.py'")
    (inside / "b.py").write_text("_base_ = 'a.py'")
    with pytest.raises(ConfigError, match=r"cycle: a\.py -> b\.py -> a\.py"):
        Config.load(inside / "a.py")
    (tmp_path / "outside.py").write_text("secret = 1")
    (inside / "link.py").symlink_to(tmp_path / "outside.py")
    (inside / "c.py").write_text("_base_ = 'link.py'")
    with pytest.raises(ConfigError, match=r"c\.py:1: the base .*link\.py is outside"):
        Config.load(inside / "c.py")
    assert Config.load(inside / "c.py", roots=[tmp_path]).secret == 1


def test_too_many_bases(tmp_path: Path) -> None:
    for index in range(80):
        (tmp_path / f"b{index}.py").write_text(f"_base_ = 'b{index + 1}.py'")
    with pytest.raises(ConfigError, match="too many or too large bases"):
        Config.load(tmp_path / "b0.py")


ATOMS = st.sampled_from(  # two spaces apart
    """x  1  'a'  [x]  {'k': x}  dict(a=x)  (1,)  9  -x  x + x  x * 9  x ** x  x.a  x['a']  x[0]
    [x for x in range(9)]  x.update(a=1)  f'{x}'  x.__class__  {{_base_.x}}  {x for x in x}  *x
    x if x else x  x.format(x)  len(x)  str(x)  x.append(x)  x.copy()  x % x  x == x  list(x)
    sum([x, x])  range(9 ** 9)""".replace("\n    ", "  ").split("  ")
)
STATEMENTS = st.sampled_from(
    """x = {}  x += {}  del {}  for x in {}: pass  if {}: x = 1  {}  a, b = {}  x.a = {}
    x['k'] = {}  import {}  from {} import x  _base_ = {}  assert {}""".replace(
        "\n    ", "  "
    ).split("  ")
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(STATEMENTS, ATOMS), min_size=1, max_size=12), st.booleans())
def test_made_up_programs_give_a_dict_or_a_config_error(
    tmp_path: Path, lines: list[tuple[str, str]], begin: bool
) -> None:
    body = "\n".join(statement.format(atom) for statement, atom in lines)
    path = tmp_path / "fuzz.py"
    path.write_text(("x = [1, dict(a='b')]\n" if begin else "") + body)
    try:
        made = Config.load(path).to_dict()
    except ConfigError as error:
        assert str(error).startswith(str(path))
    else:
        assert isinstance(made, dict)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200), st.sampled_from([".py", ".json", ".yaml", ".toml"]))
def test_any_bytes_give_a_dict_or_a_config_error(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(data)
    try:
        Config.load(path)
    except ConfigError as error:
        assert str(error).startswith(str(path))
