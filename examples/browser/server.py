"""The page's own server: it holds the receiver's token and fetches tickets, so that the page never sees the token.

Python 3 without any package. It serves index.html and answers two requests of the page:

    POST /ticket   a ticket for one connection, the stream's URL, and what SETs must say of issuer and audience
    GET  /jwks     the issuer's public keys (the gateway offers no CORS)

A real backend asks who the user is before it hands out a ticket. This one is for one user: it listens on 127.0.0.1 only.
"""

import argparse
import http.server
import json
import pathlib
import sys
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent


def arguments():
    parser = argparse.ArgumentParser(description="Serves a page that subscribes to a stream.")
    parser.add_argument("--stream", required=True, help="the stream's URL: https://gateway.example/websocket/orders")
    parser.add_argument("--jwks", required=True, help="the issuer's key set: https://gateway.example/jwks.json")
    parser.add_argument("--issuer", required=True)
    parser.add_argument("--audience", required=True)
    parser.add_argument("--token-file", required=True, type=pathlib.Path, help="the receiver's token")
    parser.add_argument("--port", type=int, default=8000)
    return parser.parse_args()


def fetch(url, method="GET", body=None, token=None):
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


class Page(http.server.BaseHTTPRequestHandler):
    options = None

    def do_GET(self):
        if self.path.split("?")[0] == "/":
            return self.answer(200, "text/html; charset=utf-8", (HERE / "index.html").read_bytes())
        if self.path == "/jwks":
            return self.passed_on(lambda: fetch(self.options.jwks))
        return self.answer(404, "text/plain", b"not here\n")

    def do_POST(self):
        # Another site's page could ask too: browsers then name another origin.
        if self.path != "/ticket" or self.headers.get("Origin") != self.options.origin:
            return self.answer(403, "text/plain", b"not from this page\n")
        return self.passed_on(self.ticket)

    def ticket(self):
        options = self.options
        token = options.token_file.read_text().strip()
        wish = json.dumps({"origin": options.origin}).encode()
        issued = fetch(options.stream + "/ticket", "POST", wish, token)
        return {
            "url": options.stream.replace("http", "ws", 1),
            "ticket": issued["ticket"],
            "expected": {"issuer": options.issuer, "audience": options.audience},
        }

    def passed_on(self, ask):
        try:
            return self.answer(200, "application/json", json.dumps(ask()).encode())
        except (OSError, ValueError, KeyError) as error:
            print(f"the gateway did not help: {error}", file=sys.stderr)
            return self.answer(502, "text/plain", b"the gateway did not help\n")

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    options = arguments()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", options.port), Page)
    options.origin = f"http://127.0.0.1:{server.server_port}"
    Page.options = options
    print(f"open {options.origin}/?connect", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
