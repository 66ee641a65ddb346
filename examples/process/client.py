#!/usr/bin/env python3
"""A co-process for Lapwing's handler of kind `process`. Copy it, and write your own `handle`."""
import base64
import json
import sys


class Permanent(Exception):
    """Every attempt would fail: the message becomes a dead letter. A ValueError, such as that of bad JSON,
    counts as this too. Any other error is retried."""


class Unavailable(Exception):
    """A service that the work needs is down: the message waits for it, and no attempt is charged."""


def handle(message, body):
    order = json.loads(body)
    if order.get("cents", 0) < 0:
        raise Permanent("negative price")


def outcome(message):
    encoded = message.get("body_base64")
    try:
        handle(message, message["body"] if encoded is None else base64.b64decode(encoded))
        return {"outcome": "succeeded"}
    except (Permanent, ValueError) as error:
        return {"outcome": "permanent", "error": str(error)}
    except Unavailable as error:
        return {"outcome": "unavailable", "error": str(error)}
    except Exception as error:
        return {"outcome": "retry", "class": type(error).__name__, "error": str(error)}


answers, sys.stdout = sys.stdout, sys.stderr  # `print` goes to the worker's log
print('{"ready":1}', file=answers, flush=True)
for line in sys.stdin.buffer:
    message = json.loads(line)
    print(json.dumps({"id": message["id"], **outcome(message)}), file=answers, flush=True)
