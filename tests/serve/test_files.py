"""The files of a server are its own: modes whatever the umask, owners, links, log lines."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_harness import infer_body, until, write_bundle

from cupola.errors import ConfigError
from cupola.serve.http.messages import Request
from cupola.serve.ipc import frames, paths
from cupola.serve.logs import Log, LogFile
from cupola.serve.worker.access_log import format_line

NOBODY = 65534
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- the runtime directory


def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    root = tmp_path / "root"
    home = paths.make_home(root, 1234567)
    assert (mode(root), mode(home)) == (0o700, 0o700)
    assert mode(Path(frames.spill(b"x", home))) == 0o600
    paths.write_atomically(home / "status.json", "{}")
    assert mode(home / "status.json") == 0o644
    log = LogFile(str(tmp_path / "log"))
    assert mode(tmp_path / "log") == 0o644
    log.close()


def test_a_folder_left_by_a_process_of_the_same_id_is_replaced(tmp_path: Path) -> None:
    home = paths.make_home(tmp_path / "root", 1)  # always running
    (home / "old").touch()
    home.chmod(0o777)
    again = paths.make_home(tmp_path / "root", 1)
    assert list(again.iterdir()) == [] and mode(again) == 0o700


def test_a_runtime_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(
        ConfigError, match=r"other users may write to .* \(mode 777\); set runtime_"
    ):
        paths.make_home(tmp_path, 1)
    tmp_path.chmod(0o1777)
    with pytest.raises(ConfigError, match="mode 1777"):
        paths.make_home(tmp_path, 1)


def test_a_runtime_directory_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a folder"):
        paths.make_home(tmp_path / "file", 1)


@is_root
def test_a_runtime_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir(mode=0o700)
    os.chown(tmp_path / "root", NOBODY, NOBODY)
    with pytest.raises(ConfigError, match=f"belongs to user {NOBODY}"):
        paths.make_home(tmp_path / "root", 1)


@is_root
def test_a_link_of_another_user_is_no_runtime_directory(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "root").symlink_to(tmp_path / "mine")
    os.chown(tmp_path / "root", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(ConfigError, match="is not a folder"):
        paths.make_home(tmp_path / "root", 1)


@pytest.mark.processes
@pytest.mark.parametrize("daemon", [False, True])
def test_nothing_of_a_running_server_is_open_to_others(serve, daemon: bool, short_folder) -> None:
    inside = f"{short_folder}/admin.sock"
    server = serve(daemon=daemon, admin=f"unix:{inside}", shm_threshold=1000)
    assert server.infer(x=[1.0] * 1000)[0] == 200
    home = server.runtime / str(server.pid)
    found = {path: mode(path) for path in [home, *home.rglob("*")]}
    assert found[home] == 0o700
    assert not {path: bits for path, bits in found.items() if bits & 0o022}
    mapped = [path.stat() for path in found if path.suffix in (".db", ".scoreboard")]
    assert len(mapped) >= 4  # allocated in full, since they are written through memory
    assert all(about.st_blocks * 512 >= about.st_size for about in mapped)
    sockets = [path for path in found if path.is_socket()]
    assert len(sockets) >= 2 and {found[path] for path in sockets} == {0o600}
    assert mode(server.pid_file) == 0o644 and mode(Path(inside)) == 0o600
    for pid in (server.pids()[0], server.runner_pid()):
        assert "Umask:\t0077" in Path(f"/proc/{pid}/status").read_text()


def as_nobody(serve, folder: str):
    """A server whose workers have a user of their own, who can read the bundle."""
    Path(folder).chmod(0o755)
    bundle = write_bundle(Path(folder), "echo")
    return serve(user="nobody", group="nogroup", models=[str(bundle)])


@pytest.mark.processes
def test_a_reload_makes_a_removed_runtime_directory_again(serve) -> None:
    """As systemd's RemoveIPC does with the files of a user who logs out."""
    server = serve()
    home = server.runtime / str(server.pid)
    assert server.infer()[0] == 200
    for number, folder in ((2, home), (3, server.runtime)):
        shutil.rmtree(folder)
        assert server.infer()[0] == 200
        server.signal(signal.SIGHUP)
        until(lambda: server.status().get("generation") == number)  # noqa: B023
        assert [mode(path) for path in (home, home / "metrics")] == [0o700] * 2
        assert server.get("/metrics")[0] == server.infer()[0] == 200
    assert mode(server.runtime) == 0o700


@pytest.mark.processes
@is_root
def test_the_home_admits_only_the_group_of_the_workers(serve, short_folder: str) -> None:
    server = as_nobody(serve, short_folder)
    home = server.runtime / str(server.pid)
    assert mode(home) == 0o750 and home.stat().st_gid == NOBODY
    folder = home / "g1"
    assert mode(folder) == 0o700 and folder.stat().st_uid == NOBODY
    assert server.infer()[0] == 200
    assert server.get("/status.json")[1]["generation"] == 1
    assert server.infer(do="die")[0] == 500  # set aside, whatever the user
    kept = list((home / "quarantine").glob("*.body"))
    assert len(kept) == 1 and kept[0].stat().st_uid == NOBODY and mode(kept[0]) == 0o600


@pytest.mark.processes
def test_a_foreign_runtime_directory_ends_the_start(serve, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    server = serve(ready=False, runtime_dir=str(tmp_path))
    assert server.wait_exit() == 2
    assert "other users may write to" in server.log()


# ---- log files


def test_a_log_is_not_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("secret")
    (tmp_path / "log").symlink_to(tmp_path / "shadow")
    with pytest.raises(OSError, match="log is a symbolic link; name the file it leads to"):
        LogFile(str(tmp_path / "log"))


def test_a_pipe_without_a_reader_does_not_stop_the_server(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(OSError):
        LogFile(str(tmp_path / "log"))


@is_root
@pytest.mark.parametrize("kind", ["plain", "link", "foreign"])
def test_only_the_opened_file_is_given_away(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "log"
    if kind == "link":
        (tmp_path / "other").touch()
        os.link(tmp_path / "other", target)
    elif kind == "foreign":
        target.touch()
        os.chown(target, 1, 1)
    log = LogFile(str(target))
    if kind == "plain":
        target.rename(tmp_path / "moved")
        (tmp_path / "shadow").touch()
        target.symlink_to(tmp_path / "shadow")
        log.give_to(NOBODY, NOBODY)
        assert (tmp_path / "moved").stat().st_uid == NOBODY
        assert (tmp_path / "shadow").stat().st_uid == 0
    else:
        before = target.stat().st_uid
        with pytest.raises(OSError, match="is a link, or belongs to user"):
            log.give_to(NOBODY, NOBODY)
        assert target.stat().st_uid == before
    log.close()


@pytest.mark.processes
@is_root
def test_a_link_in_place_of_the_log_is_not_followed_by_usr1(
    serve, tmp_path: Path, short_folder: str
) -> None:
    server = as_nobody(serve, short_folder)
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)
    server.log_file.rename(tmp_path / "old.log")
    server.log_file.symlink_to(precious)
    server.signal(signal.SIGUSR1)
    until(lambda: "reopen failed" in (tmp_path / "old.log").read_text())
    assert precious.stat().st_uid == 0 and precious.read_text() == ""
    assert server.infer()[0] == 200


# ---- log lines

FORGED = "x\n2026-01-01 00:00:00 [error] 1: forged\r\x1b[31m\u2028\u202e"


def test_no_message_starts_a_line(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"))
    log("error", f"request {FORGED}")
    text = (tmp_path / "log").read_bytes().decode()
    log.file.close()
    assert text.count("\n") == 1 and text.endswith("\n")
    assert "\\x0a2026" in text and "\\x1b" in text and "\\u2028" in text and "\\u202e" in text


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_field_of_a_request_starts_a_line(form: str) -> None:
    headers = {"user-agent": FORGED}
    request = Request("GET", f"/{FORGED}", "", headers, FORGED, 0.0, FORGED)
    line = format_line(request, 200, 1, 0.1, form)
    assert len(line.splitlines()) == 1 and "\x1b" not in line


@pytest.mark.processes
def test_no_path_or_header_forges_a_line(serve, tmp_path: Path) -> None:
    access = tmp_path / "access.log"
    server = serve(access_log=str(access), log_level="debug")
    forged = "%0a2026-01-01%2000:00:00%20[error]%201:%20forged"
    for path in (f"/v2/models/{forged}/infer", f"/{forged}", f"/v2/models/echo{forged}/ready"):
        server.ask(
            "POST", path, infer_body(), {"User-Agent": "a\tb", "X-Request-Id": "é\x85[error]"}
        )
    lines = until(lambda: len(found := access.read_text().splitlines()) >= 3 and found)
    assert not [line for line in lines if line.startswith("2026-01-01")]
    assert not [line for line in server.log().splitlines() if line.startswith("2026-01-01")]


# ---- admin requests


def load(server, headers: dict[str, str], **parameters: object) -> int:
    body = json.dumps({"parameters": parameters})
    return int(server.ask("POST", "/v2/repository/models/echo/load", body, headers)[0])


@pytest.mark.processes
def test_admin_requests_of_other_sites_are_refused(serve) -> None:
    server = serve(admin="on", admin_hosts=["cupola.internal"], max_runners=3)
    bundle = str(server.folder / "bundles/echo")
    own, kind = f"127.0.0.1:{server.port}", {"Content-Type": "application/json; charset=utf-8"}
    assert load(server, {"Content-Type": "text/plain"}, bundle=bundle) == 415
    assert load(server, {"Content-Type": "application/x-www-form-urlencoded"}) == 415
    assert load(server, {"Origin": f"http://{own}"}) == 415  # a browser, and no content type
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert load(server, {**kind, "Origin": origin}, bundle=bundle) == 403
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "["):
        assert load(server, {**kind, "Host": host}, bundle=bundle) in (400, 403)
    assert server.ask("POST", "/admin/reload", "", {"Host": "evil.example"})[0] == 403
    for host in (own, f"localhost:{server.port}", "Cupola.internal", "cupola", "[::1]:80"):
        assert load(server, {**kind, "Host": host}, bundle=bundle) == 200
    assert load(server, {**kind, "Origin": f"http://{own}"}, bundle=bundle) == 200
    assert load(server, {}, bundle=bundle) == 200  # Triton's client


@pytest.mark.processes
def test_the_runners_of_a_load_request_are_limited(serve) -> None:
    server = serve(admin="on", max_runners=3)
    before = server.pids("zygote")
    for runners, status in ((2, 200), (4, 400), (10**9, 400), ("abc", 400), (-1, 400), ([1], 400)):
        assert load(server, {}, runners=runners, bundle=str(server.folder / "bundles/echo"),
                    version=str(status)) == status  # fmt: skip
    assert server.pids("zygote") == before and server.infer()[0] == 200


@pytest.mark.processes
def test_a_name_that_makes_no_file_name_is_refused(serve) -> None:
    """One that is too long would keep the workers from following the zygote."""
    server = serve(admin="on")
    bundle = str(server.folder / "bundles/echo")
    for version in ("v" * 101, "\u00e9" * 17):
        assert load(server, {}, bundle=bundle, version=version) == 400
    for version in ("v" * 100, "a/../b\n\0"):
        assert load(server, {}, bundle=bundle, version=version) == 200
    assert server.infer()[0] == 200


@pytest.mark.processes
def test_the_socket_of_the_zygote_obeys_the_setting(serve, tmp_path: Path) -> None:
    """With admin off nothing is unloaded, whoever reached the socket."""
    server = serve()
    code = (
        "import socket,sys;from cupola.serve.ipc import frames;s=socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1]);s.recv(65536);"
        "s.sendall(b''.join(frames.pack(frames.control('unload',id=1,name='echo'))));"
        "print(s.recv(65536))"
    )
    path = server.runtime / str(server.pid) / "g1/zygote.sock"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=server.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "admin endpoints are off" in done.stdout
    assert server.infer()[0] == 200
