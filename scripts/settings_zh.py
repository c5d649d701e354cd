"""Writes docs/settings.zh-CN.md: `python scripts/settings_zh.py`.

Types and defaults are those of the settings; a setting without a text here has its English one.
"""

from pathlib import Path

from cupola.serve.settings.access import ApiKey, Limits
from cupola.serve.settings.docs import _table
from cupola.serve.settings.model import ModelSettings
from cupola.serve.settings.settings import Settings

PAGE = Path(__file__).parent.parent / "docs/settings.zh-CN.md"
HEAD = """# 服务器设置

[English](settings.md)

由 `python scripts/settings_zh.py` 根据 [`Settings`](../src/cupola/serve/settings/settings.py) 生成，请勿直接修改。

设置可以来自 TOML 或 YAML 文件（`cupola serve --settings FILE`）、环境变量 `CUPOLA_NAME` 和命令行（`--set NAME=VALUE`），后者优先。`cupola check -c FILE` 检查文件并报告出错的行；`cupola check -c FILE --dump` 打印所有取值。时间以秒为单位，大小以字节为单位。
"""

SERVER = {
    "listen": "监听地址：HOST:PORT、[IPV6]:PORT、unix:/path，或 systemd。",
    "operations_listen": "供运维使用的地址：设置之后，/metrics、/status 和管理接口只在这里（以及管理套接字上）响应，不再出现在 `listen` 上。",
    "grpc_listen": "使用 gRPC 的地址：开放推理协议、健康检查和服务反射；需要附加依赖 `grpc`。",
    "proxy_protocol": "其中每个连接都以 PROXY 协议（版本 1 或 2）开头的地址；需要 `trusted_proxies`。",
    "trusted_proxies": "代理的地址和 CIDR 网段，或 `unix:`；只采信它们的 X-Forwarded-For、X-Forwarded-Proto 和 PROXY 协议。",
    "reuseport": "为每个工作进程打开一个监听套接字。",
    "backlog": "内核中等待接受的连接队列的长度。",
    "models": "要提供服务的模型；默认为所有随包发布的模型包。",
    "model_dir": "提供其中模型的目录，用来代替 `models`：一个模型包、一个 transformers 目录、一份配置及其检查点，或各含其中之一的多个子目录。",
    "model_name": "`model_dir` 中只有一个模型时，它在 URL 中的名称。",
    "model_defaults": "`model_dir` 中每个模型的设置，与 `models` 中的相同，例如 `{device: cuda}`。",
    "offline": "不下载任何内容；hf:// 编号必须已在 Hugging Face 的缓存中。",
    "plugins": "在运行进程中导入的模块。",
    "tls_certificate": "PEM 证书链；设置之后启用 TLS。",
    "tls_key": "证书的 PEM 私钥。",
    "tls_client_ca": "PEM 证书：接受由这些机构签发证书的客户端；启用双向 TLS。",
    "tls_client_verify": "客户端是否必须出示证书。",
    "api_keys": "除健康检查外，每个请求必须出示其中一个密钥；用 `cupola key` 生成。",
    "client_limits": "每个客户端地址的 `rate`、`burst` 和 `concurrency`，所有工作进程合计。",
    "workers": "HTTP 工作进程的数量；auto 表示 cgroup 中可用的 CPU 数。",
    "master_process": "关闭时，所有工作都在一个进程中进行。",
    "daemon": "脱离终端运行。",
    "pid_file": "存放主进程编号的文件。",
    "runtime_dir": "存放套接字、状态和大请求体的目录；默认为 /dev/shm/cupola-UID。",
    "user": "工作进程和运行进程的用户（仅限 root）。",
    "group": "工作进程和运行进程的用户组（仅限 root）。",
    "working_directory": "工作进程和运行进程的工作目录。",
    "worker_priority": "工作进程的 nice 值。",
    "runner_priority": "运行进程的 nice 值。",
    "loading_priority": "重载期间正在加载的运行进程的 nice 值。",
    "worker_cpu_affinity": "各工作进程使用的 CPU 编号，依次轮流。",
    "worker_rlimit_nofile": "打开文件数的上限。",
    "worker_rlimit_core": "core 文件大小的上限。",
    "environment": "工作进程和运行进程的环境变量。",
    "respawn_delay": "反复过早退出的子进程第一次重新启动前的等待时间。",
    "respawn_delay_max": "该等待时间的上限；它每次加倍。",
    "min_uptime": "运行时间短于此值即为过早退出。",
    "ready_timeout": "新的一代进入就绪状态的时间上限。",
    "worker_shutdown_timeout": "工作进程排空连接的时间上限，之后关闭所有连接。",
    "drain_delay": "QUIT 或 TERM 之后，服务器报告未就绪但仍接受连接的时间，以便负载均衡器察觉；再次发送 TERM 可提前结束。",
    "worker_connections": "每个工作进程的最大连接数。",
    "client_connections": "同一地址（受信代理除外）在每个工作进程上的最大连接数，超出的会被关闭。",
    "header_timeout": "读取请求头的时间上限。",
    "body_timeout": "读取请求体的时间上限，另加其大小除以 `body_rate`。",
    "body_rate": "请求体每秒的最少字节数。",
    "send_timeout": "客户端继续读取响应的时间上限。",
    "keepalive_timeout": "空闲连接在此时间之后关闭。",
    "keepalive_grace": "工作进程排空连接时的同一上限。",
    "keepalive_requests": "每个连接的最大请求数。",
    "max_header": "请求头的最大长度。",
    "max_body": "请求体解压后的最大长度。",
    "shm_threshold": "超过此大小的请求体通过共享内存传递。",
    "request_timeout": "请求的截止时间；对于流，是到第一段以及相邻两段之间的时间。",
    "openai_strict": "对 OpenAI 接口中接受但不起作用的参数也予以拒绝。",
    "max_batch": "批次大小的上限；覆盖模型的默认值。",
    "batch_delay": "等待批次填满的最长时间。",
    "max_image_pixels": "每个模型接受的图片的最大像素数（宽 x 高）。无论文件多小，解码每个像素需要 7 字节内存；需要更多内存的格式上限更低。",
    "queue_limit": "所有工作进程合计，每个模型正在处理的请求数上限，超出时返回 429。含图片的请求每一百万像素多计一个。",
    "max_sequences": "一个运行进程为有状态的模型同时保存的序列数，超出时返回 429。",
    "sequence_timeout": "序列空闲超过此时间后释放其状态。",
    "runner_numa": "有多个 NUMA 节点且线程放得下时，把每个运行进程绑定到一个节点；各运行进程依次轮流使用这些节点。",
    "compute_threads": "每个运行进程的线程数；默认把 CPU 平均分给各运行进程。空闲的线程很快睡眠，除非设置了 OMP_WAIT_POLICY 或 GOMP_SPINCOUNT。",
    "max_runners": "运行进程达到此数量后，加载模型的请求会被拒绝。",
    "runner_max_requests": "运行进程处理这么多请求之后被替换，实际数量随机增加至多四分之一。",
    "runner_memory_limit": "运行进程的内存（不含共享权重等文件）超过此值时，处理完手头的请求后被替换；达到两倍时被杀死。",
    "hang_timeout": "一个批次的时间上限，超过则杀死运行进程；默认为 request_timeout 的四分之三，使其请求仍来得及响应。",
    "quarantine": "存放使两个运行进程崩溃的请求的目录。",
    "cors_origins": "可以使用本服务器的页面来源，如 https://app.example，或 `*`。",
    "cors_methods": "这些页面可以使用的方法。",
    "cors_headers": "这些页面可以发送的请求头字段。",
    "cors_credentials": "允许这些页面发送 cookie 和证书；不能与 `*` 同时使用。",
    "cors_max_age": "浏览器可以保存预检请求结果的时间。",
    "cache_path": "响应缓存的目录；不设置则关闭。",
    "cache_max_size": "缓存的最大大小。",
    "cache_max_age": "条目的最长存活时间。",
    "cache_max_entry": "条目的最大大小。",
    "cache_interval": "缓存管理进程两次运行之间的最长时间。",
    "cache_loader_delay": "缓存加载进程启动前的等待时间。",
    "cache_loader_files": "缓存加载进程每一步处理的文件数。",
    "cache_loader_sleep": "两步之间的停顿。",
    "error_log": "文件，或 stderr。",
    "log_level": "错误日志的最低级别。",
    "access_log": "文件、stdout 或 off。",
    "access_log_format": "访问日志的格式，每个请求一行。",
    "otel_endpoint": "通过 HTTP 接收 OTLP 的 OpenTelemetry 采集器，如 http://127.0.0.1:4318；需要附加依赖 `otel`；不设置则关闭。",
    "otel_sampling": "从这里开始的跟踪中被记录的比例。",
    "otel_interval": "两次发送指标之间的时间。",
    "pages": "提供网页。",
    "admin": "通过 HTTP 加载、卸载和重载：off、on，或 unix:/path。",
    "admin_hosts": "管理请求可以使用的带点的主机名。",
}
MODEL = {
    "bundle": "随包发布的模型包的名字、文件夹，或 hf://ORG/NAME[@REVISION]。",
    "name": "URL 中的名字；默认为模型包的名字。",
    "version": "URL 中的版本；默认为模型包的版本。",
    "runners": "运行这个模型的进程数。",
    "device": '模型在哪里计算："cpu"、"cuda"、"cuda:1"、"mps" 等。',
    "device_memory": "每个运行进程最多占用的显存，以字节计。",
    "tensor_parallel": "语言模型的每个副本切分到的进程数。",
    "optimization": "网络的执行方式：`auto`（大模型首次加载时实测，取本机最快的精确引擎）、`auto-int8`、`eager`、`folded`、`compiled`、`onnxruntime`、`openvino`、`cuda-graph`、`half`、`int8`、`onnxruntime-int8`；语言模型为 `auto`、`auto-int8`、`none`、`packed`、`int8`、`int4`。",
    "tta": "检测器：按模型配置声明的方式合并同一图像多个视图的检测结果（测试时增强）。",
    "deterministic": "无论批次如何、使用 1、2 还是 4 个进程，文本逐位相同。",
    "lookup_tokens": "根据已有文本猜测、并在一步中检验的词元数；0 表示不猜测。",
    "max_batch": "批次大小的上限。",
    "batch_delay": "等待批次填满的最长时间。",
    "queue_limit": "正在处理的请求超过此数时返回 429。",
    "cache": "把响应存入响应缓存。",
    "max_image_pixels": "图片的最大像素数（宽 x 高）。",
    "runner_max_requests": "运行进程处理这么多请求之后被替换。",
    "runner_memory_limit": "运行进程的内存超过此值时被替换。",
}
KEY = {
    "name": "在日志和错误信息中使用的名字；不是秘密。",
    "hash": "`sha256:` 加上密钥的 SHA-256，十六进制。",
    "models": "可以使用的模型；默认为全部。",
    "operations": "可以使用 /metrics、/status.json，以及（设置了 `admin` 时）管理接口。",
    "limits": "该密钥的 `rate`、`burst` 和 `concurrency`。",
}
LIMITS = {
    "rate": "每秒的请求数。",
    "burst": "可以一次超出的请求数。",
    "concurrency": "同时处理的请求数。",
}
WORDS = {" or unset": " 或不设置", " or ": " 或 ", "required": "必填"}


def document() -> str:
    """The text of the page."""
    return "\n".join(
        [HEAD, *_chinese(_table(Settings), SERVER), "", "## 模型的设置", "", "`models` 的一项：", "",
         *_chinese(_table(ModelSettings), MODEL), "", "## API 密钥的设置", "", "`api_keys` 的一项：", "",
         *_chinese(_table(ApiKey), KEY), "", "## 限制", "", "`client_limits`，以及 API 密钥的 `limits`：", "",
         *_chinese(_table(Limits), LIMITS), ""]
    )  # fmt: skip


def _chinese(rows: list[str], texts: dict[str, str]) -> list[str]:
    done = ["| 设置 | 类型 | 默认值 | 说明 |", rows[1]]
    for row in rows[2:]:
        values, english = row.removesuffix(" |").rsplit("| ", 1)
        name = values.split("`")[1]
        for word, chinese in WORDS.items():
            values = values.replace(word, chinese)
        done.append(f"{values}| {texts.get(name, english)} |")
    return done


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
