"""An authorization server for OAUTHBEARER: the client credentials grant, and tokens that the broker believes."""

import base64
import http.server
import json
import threading
import time
import urllib.parse

import jwt


class Tokens:
    """Listens on a port of 127.0.0.1. `change` makes tokens that the broker does not believe; `count` says how many were asked for."""

    def __init__(self, key_file, port=0, client=("gateway", "client-secret"), subject="gwtoken", life=300):
        self.key = key_file.read_text(encoding="utf-8")
        self.client, self.subject, self.life = client, subject, life
        self.change, self.count, self.refused, self.scopes = {}, 0, 0, set()
        tokens = self

        class Door(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                status, answer = tokens.answer(self.headers.get("authorization", ""), urllib.parse.parse_qs(body))
                answer = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("cache-control", "no-store")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """Whoever asks may end without a word."""

        self.server = Server(("127.0.0.1", port), Door)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, authorization, form):
        basic = "Basic " + base64.b64encode(":".join(urllib.parse.quote(part, safe="") for part in self.client).encode()).decode()
        if authorization != basic:
            self.refused += 1
            return 401, {"error": "invalid_client"}
        if form.get("grant_type") != ["client_credentials"]:
            self.refused += 1
            return 400, {"error": "unsupported_grant_type"}
        self.count += 1
        self.scopes.update(form.get("scope", ()))
        return 200, {"access_token": self.token(), "token_type": "Bearer", "expires_in": self.life}

    def token(self):
        now = int(time.time())
        claims = {"iss": "https://idp.example", "aud": "kafka", "sub": self.subject, "iat": now, "exp": now + self.life}
        return jwt.encode({**claims, **self.change}, self.key, algorithm="ES256", headers={"kid": "one"})

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
