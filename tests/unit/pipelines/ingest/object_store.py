"""An object store on loopback: as much of S3's protocol over HTTP as reading takes. Polars' own client talks to it."""

import contextlib
import http.server
import threading
import urllib.parse
from collections.abc import Iterator
from xml.sax.saxutils import escape


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]  # by bucket and key

    def do_GET(self) -> None:
        """Answer an object, a range of one, or the list of a bucket."""
        parts = urllib.parse.urlsplit(self.path)
        path, query = urllib.parse.unquote(parts.path).strip("/"), urllib.parse.parse_qs(parts.query)
        if "list-type" in query:
            self._answer(200, self._listed(path, query.get("prefix", [""])[0]))
        elif path not in self.objects:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._answer_part(self.objects[path])

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def _answer_part(self, held: bytes) -> None:
        wanted = self.headers.get("Range", "")
        if not wanted:
            return self._answer(200, held)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(held) - int(last))
        end = min(int(last) + 1, len(held)) if first and last else len(held)
        return self._answer(206, held[start:end], f"bytes {start}-{end - 1}/{len(held)}")

    def _answer(self, status: int, body: bytes, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Tue, 01 Jan 2013 00:00:00 GMT")
        if content_range is not None:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _listed(self, bucket: str, prefix: str) -> bytes:
        keys = {key.removeprefix(f"{bucket}/"): len(held) for key, held in self.objects.items()}
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2013-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>1</ETag><Size>{size}</Size></Contents>"
            for key, size in sorted(keys.items())
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def object_store(objects: dict[str, bytes]) -> Iterator[dict[str, str]]:
    """Serve objects by bucket and key; return the environment in which a client finds them."""
    handler = type("Handler", (_Handler,), {"objects": objects})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
