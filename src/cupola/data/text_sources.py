"""Public-domain text from Debian packages: Jane Austen's novels and classical Chinese pieces.

The packages hold texts whose authors died centuries ago. r-cran-janeaustenr (MIT) stores the
novels as R strings; fortunes-zh (GPL-3+ as a collection) stores poems and sayings with their
authors, of which only the classical ones below are taken.
"""

import re
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cupola.errors import DataError

PACKAGES = ("r-cran-janeaustenr", "fortunes-zh")
NOVELS = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
FORTUNES = "usr/share/games/fortunes"

# Books and poets that identify a piece as classical; the latest is Nalan Xingde (died 1685).
CLASSICAL = re.compile(
    "《?(论语|菜根谭|增广贤文|道德经|詩經|诗经"
    "|辛弃疾|苏轼|李煜|柳永|李白|陆游|吴文英|晏几道|欧阳修|姜夔|晏殊|杜甫|张炎|白居易|蒋捷|王沂孙|刘过|史达祖"
    "|陈亮|张孝祥|刘克庄|刘辰翁|张先|周密|韦庄|温庭筠|王维|李商隐|冯延巳|纳兰性德|陈人杰|范成大|李清照|汪元量"
    "|王安石|吴潜|朱淑真|范仲淹|韩元吉|秦观|戴复古|岳飞|刘禹锡|岑参|杜牧|文天祥|杨万里|王昌龄|杨炎正|卢祖皋|张籍"
    "|程垓|刘长卿|孙光宪|赵善括|吕本中|黄机|韩愈|孟浩然|贺知章|王之涣|元稹|柳宗元|李贺|贾岛)"
)


@dataclass(frozen=True)
class Document:
    """One piece of text: a chapter, a poem, a saying."""

    language: str
    text: str


def fetch_documents() -> list[Document]:
    """Downloads the packages with apt-get into a temporary folder and reads all documents.

    Raises DataError if apt-get or dpkg-deb is missing or fails; both are part of Debian.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for package in PACKAGES:
            _run(["apt-get", "download", "-qq", package], root)
        for archive in sorted(root.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(archive), str(root / "files")], root)
        return read_documents(root / "files")


def read_documents(root: Path) -> list[Document]:
    """The documents of unpacked packages, English chapters first."""
    english = [Document("en", text) for text in chapters((root / NOVELS).read_bytes())]
    return english + [Document("zh", text) for text in _chinese(root / FORTUNES)]


def chapters(database: bytes) -> Iterator[str]:
    """Chapters of the novels in an R lazy-load database, one paragraph a line."""
    for lines in _novels(database):
        text = "\n".join(lines)
        for chapter in re.split(r"\n\s*CHAPTER [^\n]*\n", text, flags=re.IGNORECASE)[1:]:
            paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", chapter)]
            body = "\n".join(p for p in paragraphs if p)
            if len(body) > 500:
                yield body


def _novels(database: bytes) -> Iterator[list[str]]:
    """Lines of each novel; an object is a length and a zlib stream of R's XDR format."""
    place = 0
    while place < len(database):
        stream = zlib.decompressobj()
        raw = stream.decompress(database[place + 4 :])
        place = len(database) - len(stream.unused_data)
        yield list(_r_strings(raw))


def _r_strings(raw: bytes) -> Iterator[str]:
    header = 23  # "X\n", three versions, and the encoding's name "UTF-8" with its length
    _, count = struct.unpack_from(">II", raw, header)
    place = header + 8
    for _ in range(count):
        flags, length = struct.unpack_from(">Ii", raw, place)
        if flags & 0xFF != 9:
            raise DataError("the novels are no longer stored as R strings")
        place += 8
        yield raw[place : place + max(length, 0)].decode("utf-8", "replace")
        place += max(length, 0)


def _chinese(folder: Path) -> Iterator[str]:
    for name in ("tang300", "song100"):
        for piece in _pieces(folder / name):
            yield re.sub(r"^(题目|作者)[:：]", "", piece, flags=re.MULTILINE)
    for piece in _pieces(folder / "chinese"):
        found = re.search(r"^\s*--\s*(.+)$", piece, flags=re.MULTILINE)
        source = found[1].strip() if found else piece.split("\n", 1)[0]
        if CLASSICAL.match(source):
            yield re.sub(r"^\s*--\s*", "—— ", piece, flags=re.MULTILINE)


def _pieces(path: Path) -> Iterator[str]:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", path.read_text(encoding="utf-8"))
    for piece in plain.split("\n%\n"):
        text = "\n".join(line.strip() for line in piece.strip().splitlines())
        if text:
            yield text


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise DataError(
            f"{command[0]} not found: this data set needs Debian's package tools"
        ) from None
    except subprocess.CalledProcessError as error:
        raise DataError(f"{' '.join(command)} failed: {error.stderr.strip()}") from None
