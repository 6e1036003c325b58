"""Show the built book on localhost, until Ctrl-C."""

import argparse
import functools
import http.server
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HTML = ROOT / "_build" / "html"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each request."""

    def log_message(self, format, *args):
        """Say nothing."""


def server(html, port):
    """A server on this machine alone; where the port is taken, on any free one."""
    handler = functools.partial(Quiet, directory=str(html))
    for number in (port, 0):
        try:
            return http.server.ThreadingHTTPServer(("127.0.0.1", number), handler)
        except OSError:
            if number == 0:
                raise
    raise AssertionError("unreachable")


def main(argv=None):
    """Entry point of `make serve`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--html", type=Path, default=HTML, help="folder of the built book")
    options = parser.parse_args(argv)
    if not (options.html / "index.html").is_file():
        print("error: there is no built book yet; run `make book` first", file=sys.stderr)
        return 1
    with server(options.html, options.port) as running:
        print(f"the book is at http://127.0.0.1:{running.server_address[1]}/ (Ctrl-C ends)")
        sys.stdout.flush()
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
