"""A file server on loopback that keeps to HTTP, ranges and all, or breaks off, stalls and fails when told to."""

import contextlib
import hashlib
import http.server
import threading
import time


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (path → bytes) with ranges and ETags; misbehaves as its attributes say, and notes each request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.requests = {}, []
        self.ranges, self.tags = True, True
        self.drop_after = []  # bytes after which the next answers break off
        self.statuses = []  # status codes of the next answers
        self.stall = False

    def url(self, path="/set.tgz"):
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append((self.path, wanted))
        if server.stall:
            time.sleep(1)
            return
        if server.statuses or self.path not in server.files:
            self.send_error(server.statuses.pop(0) if server.statuses else 404)
            return
        body = server.files[self.path]
        tag = '"' + hashlib.md5(body).hexdigest() + '"'
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if server.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + server.drop_after.pop(0) if server.drop_after else len(body)
        self.wfile.write(body[start:end])


@contextlib.contextmanager
def serving():
    """A server at work, for a fixture."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
