"""Debian's nginx as a peer: its own configuration, and a back end that it proxies bodies to."""

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve_harness import free_port, until

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CONFIGURATION = """
user {user}; daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; default_type application/json;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  lingering_timeout 100ms; lingering_time 1s;
  client_max_body_size {max_body}; large_client_header_buffers 4 {max_line};
  server {{
    listen 127.0.0.1:{port}; server_name x;
    add_header X-Request-Id $http_x_request_id always;
    location = /v2 {{ return 200 "{{}}"; }}
    location = /v2/health/ready {{ return 200 "{{}}"; }}
    location /v2/models/ {{ proxy_pass http://127.0.0.1:{backend}; }}
    location / {{ return 404; }}
  }}
  server {{
    listen 127.0.0.1:{backend};
    location / {{ return 200 "{{}}"; }}
  }}
}}
"""


@contextmanager
def running_nginx(folder: Path, max_body: int, max_line: int) -> Iterator[int]:
    """Starts nginx; its port."""
    assert NGINX is not None
    port = free_port()
    text = CONFIGURATION.format(
        folder=folder, port=port, backend=free_port(), user=getpass.getuser(),
        max_body=max_body, max_line=max_line,
    )  # fmt: skip
    (folder / "nginx.conf").write_text(text)
    process = subprocess.Popen(
        [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", f"{folder}/error.log"]
    )
    try:
        until((folder / "nginx.pid").exists, what="nginx")
        yield port
    finally:
        process.terminate()
        process.wait(10)
