"""Raw requests, what this server does with each of them, and where nginx 1.22 differs and why.

An outcome lists the statuses, then whether the connection answers a further request ("open"), is
closed, or waits for more bytes.
"""

from dataclasses import dataclass

from serve_harness import infer_body

MAX_BODY, MAX_HEADER = 4_000_000, 32_768
READY = b"GET /v2/health/ready HTTP/1.1\r\n"
GET = READY + b"Host: x\r\n"
POST = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\n"
OLD_POST = b"POST /v2/models/echo/infer HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n"
BODY = infer_body().encode()
SIZE = b"%d" % len(BODY)
LENGTH = b"Content-Length: %b\r\n" % SIZE
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)

STRICT = "malformed by RFC 9110 or 9112; a proxy in front may read it in another way"
LITERAL = "paths are names here, not files: each is routed literally, none is normalized"


@dataclass(frozen=True)
class Row:
    """One exchange. `nginx`: its outcome, if it is another one; `why` ours differs."""

    name: str
    sent: bytes
    outcome: str
    nginx: str = ""
    why: str = ""
    heads: int = 0  # number of answers without a body because they answer HEAD


def get(target: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET %b %b\r\nHost: x\r\n\r\n" % (target, version)


def field(line: bytes) -> bytes:
    return GET + line + b"\r\n\r\n"


def host(value: bytes) -> bytes:
    return READY + b"Host: %b\r\n\r\n" % value


def method(name: bytes) -> bytes:
    return name + b" /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"


def body(fields: bytes, data: bytes = BODY) -> bytes:
    return POST + fields + b"\r\n\r\n" + data


def chunked(data: bytes) -> bytes:
    return POST + CHUNKED + b"\r\n" + data


def chunks(size_line: bytes, data: bytes = BODY) -> bytes:
    return chunked(size_line + b"\r\n" + data + b"\r\n0\r\n\r\n")


HEX = b"%x" % len(BODY)

# fmt: off
PLAIN = [
    Row("GET", GET + b"\r\n", "200 open"),
    Row("POST", POST + LENGTH + b"\r\n" + BODY, "200 open"),
    Row("POST, chunked", chunked(CHUNKS), "200 open"),
    Row("POST, no body", b"POST /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", "404 open"),
    Row("HEAD", method(b"HEAD"), "200 open", heads=1),
    Row("HEAD, 404", b"HEAD /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", "404 open", heads=1),
    Row("HEAD, 400", b"HEAD /v2 HTTP/1.1\r\n\r\n", "400 closed", heads=1),
    Row("body of a GET", GET + b"Content-Length: 5\r\n\r\nhello", "200 open"),
    Row("chunked body of a GET", GET + CHUNKED + b"\r\n" + CHUNKS, "200 open"),
    Row("unknown path with a body",
        b"POST /nowhere HTTP/1.1\r\nHost: x\r\n" + LENGTH + b"\r\n" + BODY, "404 open"),
    Row("pipelined", (GET + b"\r\n") * 3, "200 200 200 open"),
    Row("pipelined bodies", (POST + LENGTH + b"\r\n" + BODY) * 3, "200 200 200 open"),
    Row("malformed after GET", GET + b"\r\nnonsense\r\n\r\n", "200 400 closed"),
    Row("malformed after POST", POST + LENGTH + b"\r\n" + BODY + b"nonsense\r\n\r\n",
        "200 400 closed"),
    Row("CRLF after a body", POST + LENGTH + b"\r\n" + BODY + b"\r\n", "200 open"),
    Row("CRLF before a request", b"\r\n\r\n" + GET + b"\r\n", "200 open"),
]
CONNECTION = [
    Row("close", field(b"Connection: close"), "200 closed"),
    Row("Close", field(b"Connection: Close"), "200 closed"),
    Row("a list with close", field(b"Connection: x, close"), "200 closed"),
    Row("two fields", field(b"Connection: keep-alive\r\nConnection: close"), "200 closed"),
    Row("keep-alive, close", field(b"Connection: keep-alive, close"), "200 closed"),
    Row("names of needed fields", field(b"Connection: Host, Content-Length"), "200 open"),
    Row("Proxy-Connection", field(b"Proxy-Connection: close"), "200 closed", "200 open",
        "llhttp takes it for Connection"),
    Row("data after close", field(b"Connection: close") + b"junk", "200 closed"),
    Row("websocket", field(b"Connection: Upgrade\r\nUpgrade: websocket"), "200 open"),
    Row("h2c", field(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A"),
        "200 open"),
    Row("h2c with a body",
        body(b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: " + SIZE), "200 open"),
    Row("h2c with chunks", body(b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + CHUNKED[:-2],
        CHUNKS), "200 open"),
    Row("h2c and close", field(b"Connection: Upgrade, close\r\nUpgrade: h2c"), "200 closed"),
    Row("Upgrade alone", field(b"Upgrade: h2c"), "200 open"),
]
VERSIONS = [
    Row("1.0", b"GET /v2/health/ready HTTP/1.0\r\n\r\n", "200 closed"),
    Row("1.0, keep-alive", get(b"/v2", b"HTTP/1.0\r\nConnection: keep-alive"), "200 open"),
    Row("1.0, keep-alive, close", get(b"/v2", b"HTTP/1.0\r\nConnection: keep-alive, close"),
        "200 closed"),
    Row("1.0, Expect", OLD_POST + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n" + BODY,
        "200 open"),
    Row("1.0, chunked", OLD_POST + CHUNKED + b"\r\n" + CHUNKS, "400 closed"),
    Row("1.0, h2c with a body",
        OLD_POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + LENGTH + b"\r\n" + BODY,
        "200 open"),
    Row("0.9", b"GET /v2\r\n", "400 closed", "no HTTP: b'{}' closed", "nothing sends it any more"),
    Row("0.9, named", get(b"/v2", b"HTTP/0.9"), "505 closed", "400 closed", "says why"),
    Row("1.2", get(b"/v2", b"HTTP/1.2"), "400 closed", "200 open", "nothing sends it"),
    Row("2.0", get(b"/v2", b"HTTP/2.0"), "505 closed"),
    Row("3.0", get(b"/v2", b"HTTP/3.0"), "400 closed", "505 closed", "as any unknown version"),
    Row("preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 closed"),
    Row("lower case", get(b"/v2", b"http/1.1"), "400 closed"),
    Row("RTSP", get(b"/v2", b"RTSP/1.0"), "200 closed", "400 closed",
        "llhttp takes it for HTTP/1.0"),
    Row("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50, "400 closed"),
    Row("a response", b"HTTP/1.1 200 OK\r\n\r\n", "400 closed"),
]
METHODS = [
    Row("TRACE", method(b"TRACE"), "405 open", "405 closed", "it has no body, so nothing is lost"),
    Row("CONNECT", b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", "405 closed", "400 closed",
        "405 names the allowed methods"),
    Row("CONNECT to a path", method(b"CONNECT"), "405 closed"),
    Row("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "400 closed"),
    Row("lower case method", method(b"get"), "400 closed"),
    Row("unknown method", method(b"FROB"), "400 closed", "200 open",
        "llhttp knows the registered methods only"),
    Row("bad method", method(b"G@T"), "400 closed"),
]
TARGETS = [
    Row("absolute", get(b"http://x/v2"), "200 open"),
    Row("absolute, upper case", get(b"HTTP://X/v2"), "200 open"),
    Row("absolute, other host", get(b"http://y/v2"), "200 open"),
    Row("absolute, no Host", b"GET http://x/v2 HTTP/1.1\r\n\r\n", "400 closed"),
    Row("absolute, user", get(b"http://a@x/v2"), "400 closed"),
    Row("absolute, empty host", get(b"http:///v2"), "400 closed"),
    Row("absolute, bad port", get(b"http://x:999999/v2"), "400 closed", "200 open", STRICT),
    Row("absolute, other scheme", get(b"ftp://x/v2"), "400 closed", "200 open", STRICT),
    Row("no slash", get(b"v2"), "400 closed"),
    Row("*", get(b"*"), "400 closed"),
    Row("fragment", get(b"/v2#x"), "200 open"),
    Row("//", get(b"//v2"), "404 open", "200 open", LITERAL),
    Row("// inside", get(b"/v2//health/ready"), "404 open", "200 open", LITERAL),
    Row("..", get(b"/x/../v2"), "404 open", "200 open", LITERAL),
    Row(".. escaped", get(b"/x/%2e%2e/v2"), "404 open", "200 open", LITERAL),
    Row(".. above the root", get(b"/../v2"), "404 open", "400 closed", LITERAL),
    Row("escaped slash", get(b"/v2%2fhealth%2fready"), "200 open"),
    Row("escaped letter", get(b"/v2/health/%72eady"), "200 open"),
    Row("escaped NUL", get(b"/v2%00"), "400 closed"),
    Row("bad escape", get(b"/v2%zz"), "400 closed"),
    Row("cut escape", get(b"/v2%2"), "400 closed"),
    Row("NUL", get(b"/v2\0"), "400 closed"),
    Row("not ASCII", get(b"/\xc3\xa4"), "400 closed", "404 open", STRICT),
    Row("space", get(b"/v2 x"), "400 closed"),
    Row("tabs", b"GET\t/v2\tHTTP/1.1\r\nHost: x\r\n\r\n", "400 closed"),
    Row("two spaces", get(b" /v2"), "200 open"),
    Row("space at the end", get(b"/v2", b"HTTP/1.1 "), "400 closed", "200 open", STRICT),
    Row("space at the start", b" " + GET + b"\r\n", "400 closed"),
    Row("long", get(b"/" + b"a" * 40_000), "414 closed"),
]
HOSTS = [
    Row("none", READY + b"\r\n", "400 closed"),
    Row("empty", host(b""), "400 closed"),
    Row("twice", GET + b"Host: x\r\n\r\n", "400 closed"),
    Row("two", GET + b"Host: y\r\n\r\n", "400 closed"),
    Row("slash", host(b"a/b"), "400 closed"),
    Row("space in a host", host(b"a b"), "400 closed"),
    Row("empty label", host(b"a..b"), "400 closed"),
    Row("port", host(b"x:80"), "200 open"),
    Row("IPv6", host(b"[::1]:80"), "200 open"),
    Row("IPv6, cut", host(b"[::1"), "400 closed", "200 open", STRICT),
    Row("user in a host", host(b"a@b"), "400 closed", "200 open", STRICT),
    Row("bad port", host(b"x:abc"), "400 closed", "200 open", STRICT),
]
FIELDS = [
    Row("folded", field(b"X: a\r\n b"), "400 closed"),
    Row("folded first", READY + b" X: y\r\nHost: x\r\n\r\n", "400 closed"),
    Row("folded length", body(b"Content-Length: \r\n 5"), "400 closed"),
    Row("folded encoding", body(b"Transfer-Encoding:\r\n chunked", CHUNKS), "400 closed"),
    Row("bare LF", b"GET /v2 HTTP/1.1\nHost: x\n\n", "400 closed", "200 open", STRICT),
    Row("bare LF between fields", field(b"X: a\nY: b"), "400 closed", "200 open", STRICT),
    Row("bare CR", field(b"X: a\rY: b"), "400 closed"),
    Row("bare CR in the first line", b"GET /v2 HTTP/1.1\rHost: x\r\n\r\n", "400 closed"),
    Row("CR CR LF", b"GET /v2 HTTP/1.1\r\r\nHost: x\r\r\n\r\n", "400 closed"),
    Row("space before the colon", field(b"X : a"), "400 closed"),
    Row("space before the name", field(b" X: a"), "400 closed"),
    Row("no colon", field(b"X"), "400 closed", "200 open", STRICT),
    Row("no name", field(b": a"), "400 closed"),
    Row("no value", field(b"X:"), "200 open"),
    Row("NUL in a value", field(b"X: a\0b"), "400 closed"),
    Row("NUL in a name", field(b"X\0: a"), "400 closed"),
    Row("control in a value", field(b"X: a\x01b"), "400 closed", "200 open", STRICT),
    Row("bracket in a name", field(b"X(y): a"), "400 closed", "200 open", STRICT),
    Row("Latin-1 in a name", field(b"X\xe9: a"), "400 closed", "200 open", STRICT),
    Row("Latin-1 in a value", field(b"X: \xe9"), "200 open"),
    Row("8 kB", field(b"X: " + b"a" * 8000), "200 open"),
    Row("40 kB", field(b"X: " + b"a" * 40_000), "431 closed", "400 closed", "says why"),
    Row("300 fields", field(b"\r\n".join(b"X%d: a" % n for n in range(300))), "431 closed",
        "200 open", "200 at most: each costs time"),
    Row("300 equal fields", field(b"\r\n".join([b"X: a"] * 300)), "431 closed", "200 open",
        "200 at most: each costs time"),
]
LENGTHS = [
    Row("length and chunked", body(LENGTH + CHUNKED[:-2], CHUNKS), "400 closed"),
    Row("chunked and length", body(CHUNKED + LENGTH[:-2], CHUNKS), "400 closed"),
    Row("chunked twice", body(CHUNKED + CHUNKED[:-2], CHUNKS), "400 closed"),
    Row("chunked, chunked", body(b"Transfer-Encoding: chunked, chunked", CHUNKS), "400 closed",
        "501 closed", "malformed, not unknown"),
    Row("CHUNKED", body(b"Transfer-Encoding: CHUNKED", CHUNKS), "200 open"),
    Row("xchunked", body(b"Transfer-Encoding: xchunked", CHUNKS), "501 closed"),
    Row("gzip, chunked", body(b"Transfer-Encoding: gzip, chunked", CHUNKS), "501 closed"),
    Row("chunked;q=1", body(b"Transfer-Encoding: chunked;q=1", CHUNKS), "501 closed"),
    Row("identity", POST + b"Transfer-Encoding: identity\r\n\r\n", "501 closed"),
    Row("identity with length", body(b"Transfer-Encoding: identity\r\n" + LENGTH[:-2]),
        "400 closed", "501 closed", "two framings"),
    Row("tab before chunked", body(b"Transfer-Encoding:\tchunked", CHUNKS), "200 open",
        "501 closed", "RFC 9110, 5.6.3 allows it"),
    Row("VT before chunked", body(b"Transfer-Encoding: \x0bchunked", CHUNKS), "400 closed",
        "501 closed", "malformed, not unknown"),
    Row("space before its colon", body(b"Transfer-Encoding : chunked", CHUNKS), "400 closed"),
    Row("length twice", body(LENGTH + LENGTH[:-2]), "400 closed"),
    Row("two lengths", body(LENGTH + b"Content-Length: 6"), "400 closed"),
    Row("list of lengths", body(b"Content-Length: %b, %b" % (SIZE, SIZE)), "400 closed"),
    Row("length +", body(b"Content-Length: +" + SIZE), "400 closed"),
    Row("length -1", body(b"Content-Length: -1"), "400 closed"),
    Row("length 0x", body(b"Content-Length: 0x10"), "400 closed"),
    Row("length 0000n", body(b"Content-Length: 0000" + SIZE), "200 open"),
    Row("length empty", body(b"Content-Length:"), "400 closed"),
    Row("length with a space", body(b"Content-Length: 1 0"), "400 closed"),
    Row("length over 64 bits", body(b"Content-Length: 18446744073709551617"), "400 closed"),
    Row("length of 5,000 digits", body(b"Content-Length: " + b"9" * 5000), "400 closed"),
    Row("length in other digits", body(b"Content-Length: \xd9\xa1"), "400 closed"),
    Row("length too large", body(b"Content-Length: 90000000", b""), "413 closed"),
    Row("underscore", body(b"Content_Length: 5\r\n" + LENGTH[:-2]), "200 open"),
]
CHUNK_SIZES = [
    Row("extension", chunks(HEX + b";a=b"), "200 open"),
    Row("quoted extension", chunks(HEX + b';a="b c"'), "200 open"),
    Row("LF in an extension", chunks(HEX + b";a\nb"), "400 closed"),
    Row("space before ;", chunks(HEX + b" ;a=b"), "400 closed", "200 open", "llhttp takes none"),
    Row("space after the size", chunks(HEX + b" "), "400 closed", "200 open", STRICT),
    Row("space before the size", chunks(b" " + HEX), "400 closed"),
    Row("upper case, zeros", chunks(b"0000" + HEX.upper()), "200 open"),
    Row("0x", chunks(b"0x" + HEX), "400 closed"),
    Row("-", chunks(b"-" + HEX), "400 closed"),
    Row("zz", chunks(b"zz"), "400 closed"),
    Row("empty size", chunks(b""), "400 closed"),
    Row("over 64 bits", chunks(b"f" * 18), "400 closed"),
    Row("bare LF in chunks", chunked(CHUNKS.replace(b"\r\n", b"\n")), "400 closed", "200 open",
        STRICT),
    Row("bare CR in chunks", chunked(CHUNKS.replace(b"\r\n", b"\r")), "400 closed"),
    Row("size too small", chunks(b"%x" % (len(BODY) - 1)), "400 closed"),
    Row("trailer", chunked(CHUNKS[:-2] + b"X: y\r\n\r\n"), "200 open"),
    Row("trailer for us", chunked(CHUNKS[:-2] + b"Inference-Header-Content-Length: 1\r\n\r\n"),
        "200 open"),
    Row("trailer with Host", chunked(CHUNKS[:-2] + b"Host: y\r\n\r\n"), "200 open"),
    Row("trailer with a length", chunked(CHUNKS[:-2] + b"Content-Length: 5\r\n\r\n"),
        "400 closed", "200 open", STRICT),
    Row("trailer of 40 kB", chunked(CHUNKS[:-2] + b"X: " + b"y" * 40_000 + b"\r\n\r\n"),
        "431 closed", "200 open", "counts as header"),
]
EXPECT = [
    Row("100-continue", body(b"Expect: 100-Continue\r\n" + LENGTH[:-2]), "100 200 open"),
    Row("no body", field(b"Expect: 100-continue"), "100 200 open"),
    Row("too large", body(b"Expect: 100-continue\r\nContent-Length: 90000000", b""), "413 closed"),
    Row("unknown path",
        b"POST /nowhere HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n" + LENGTH + b"\r\n"
        + BODY, "404 closed", "404 open", "the body, which need not come, is not waited for"),
    Row("unknown expectation", body(b"Expect: wonders\r\n" + LENGTH[:-2]), "417 closed",
        "200 open", "RFC 9110, 10.1.1: what cannot be met is refused"),
]
INCOMPLETE = [
    Row("first line", b"GET /v2", "waits"),
    Row("header", GET, "waits"),
    Row("body", POST + LENGTH + b"\r\n" + BODY[:5], "waits"),
    Row("last chunk", chunked(CHUNKS)[:-5], "waits"),
    Row("body that we asked for", POST + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n",
        "100 waits"),
    Row("endless chunk size", POST + CHUNKED + b"\r\n" + b"0" * 50_000, "waits"),
    Row("endless empty lines", b"\r\n" * 50_000, "431 closed", "waits", "they count as header"),
]
# fmt: on

SECTIONS = {
    "plain": PLAIN, "connection": CONNECTION, "version": VERSIONS, "method": METHODS,
    "target": TARGETS, "host": HOSTS, "field": FIELDS, "length": LENGTHS, "chunk": CHUNK_SIZES,
    "expect": EXPECT, "incomplete": INCOMPLETE,
}  # fmt: skip
