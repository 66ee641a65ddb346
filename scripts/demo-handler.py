#!/usr/bin/env python3
"""A sample HTTP handler, which the worker calls in `scripts/demo` and docker-compose.yml.

The only argument is HOST:PORT, the address to listen on. Without it the handler takes a free port on
loopback. Prints the port, then answers requests by their JSON body until it is killed:
- {"poison": true}     422: can never succeed
- {"fail_times": N}    500 until N attempts have failed
- anything else        200
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Orders(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answers health checks."""
        self.answer(200, "open")

    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers["content-length"])))
        attempt = int(self.headers["lapwing-attempt"])
        if order.get("poison"):
            self.answer(422, "an order without a customer")
        elif attempt <= order.get("fail_times", 0):
            self.answer(500, "the warehouse is closed")
        else:
            self.answer(200, "shipped")

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Logs nothing, because the worker's log shows what happened."""


host, _, port = (sys.argv[1:] or ["127.0.0.1:0"])[0].partition(":")
server = ThreadingHTTPServer((host, int(port)), Orders)
print(server.server_port, flush=True)
server.serve_forever()
