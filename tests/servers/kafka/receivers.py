"""Receivers of the other methods: one that is pushed to, one that polls. Both keep every SET that came."""

import http.server
import json
import threading


class Pushed:
    """RFC 8935: takes every SET and answers 202."""

    def __init__(self):
        self.tokens, receiver = [], self

        class Door(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                receiver.tokens.append(self.rfile.read(int(self.headers["content-length"])).decode())
                self.send_response(202)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 128

            def handle_error(self, *_):
                """A gateway that is killed leaves broken connections."""

        self.server = Server(("127.0.0.1", 0), Door)
        self.delivery = {
            "method": "urn:ietf:rfc:8935", "endpoint_url": f"http://127.0.0.1:{self.server.server_address[1]}/", "authorization_header": "Bearer pushed",
        }  # fmt: skip
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def poll(gateway, stream):
    """RFC 8936: takes and acknowledges everything that is there now."""
    taken, ack = {}, []
    while True:
        answer = gateway.http.post(
            f"{gateway.issuer}/poll/{stream}", content=json.dumps({"ack": ack, "maxEvents": 200, "returnImmediately": True}),
            headers={"authorization": f"Bearer {gateway.token('receiver')}", "content-type": "application/json"},
        )  # fmt: skip
        if answer.status_code != 200:
            raise AssertionError(f"the poll was answered {answer.status_code}: {answer.text}")
        sets = answer.json()["sets"]
        taken.update(sets)
        ack = list(sets)
        if not sets:
            return list(taken.values())
