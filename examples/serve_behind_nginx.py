"""Run `cupola serve` behind nginx until interrupted.

python examples/serve_behind_nginx.py --port 8080 --backend 8000 detr-digits bloom-tiny

nginx.conf shows what the proxy has to set. In production both are services: deploy/cupola.service.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

CONFIG = Path(__file__).with_name("nginx.conf")


def wait_until_ready(url: str) -> None:
    for _ in range(1800):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise SystemExit(f"{url} is not ready after three minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="*")
    parser.add_argument("--port", type=int, default=8080, help="where nginx listens")
    parser.add_argument("--backend", type=int, default=8000, help="where cupola listens")
    parser.add_argument("--nginx", default="nginx")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        text = CONFIG.read_text().replace("{folder}", folder)
        text = text.replace("{port}", str(args.port)).replace("{backend}", str(args.backend))
        Path(folder).chmod(0o755)  # nginx, started as root, runs its workers as another user
        config = Path(folder, "nginx.conf")
        config.write_text(text)
        serve = [sys.executable, "-m", "cupola", "serve", "--port", str(args.backend)]
        processes = [subprocess.Popen([*serve, *args.bundles])]
        for number in (signal.SIGINT, signal.SIGTERM):  # a background job starts without SIGINT
            signal.signal(number, signal.default_int_handler)
        try:
            wait_until_ready(f"http://127.0.0.1:{args.backend}/v2/health/ready")
            processes.append(subprocess.Popen([args.nginx, "-c", str(config)]))
            wait_until_ready(f"http://127.0.0.1:{args.port}/v2/health/ready")
            print(f"ready: http://127.0.0.1:{args.port}", flush=True)
            processes[0].wait()
        finally:
            for process in reversed(processes):
                process.send_signal(signal.SIGQUIT)  # both finish their requests on QUIT
                process.wait()


if __name__ == "__main__":
    main()
