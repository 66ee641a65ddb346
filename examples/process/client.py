#!/usr/bin/env python3
"""A co-process for Lapwing's handler of kind `process`. Copy it, and write your own `handle`."""
import base64
import json
import sys


class Permanent(Exception):
    """Every attempt would fail: the message becomes a dead letter. So does a ValueError. Others are retried."""


class Unavailable(Exception):
    """A service that the work needs is down: the message waits for it, and no attempt is charged."""


def handle(message, body):
    order = json.loads(body)
    if order.get("cents", 0) < 0:
        raise Permanent("negative price")


def answer(line):
    if "messages" in line:  # With the setting `batch`: several messages, each with an outcome of its own.
        return {"id": line["id"], "outcomes": [answer(message) for message in line["messages"]]}
    encoded = line.get("body_base64")
    try:
        handle(line, line["body"] if encoded is None else base64.b64decode(encoded))
        return {"id": line["id"], "outcome": "succeeded"}
    except (Permanent, ValueError) as error:
        return {"id": line["id"], "outcome": "permanent", "error": str(error)}
    except Exception as error:
        outcome = "unavailable" if isinstance(error, Unavailable) else "retry"
        return {"id": line["id"], "outcome": outcome, "class": type(error).__name__, "error": str(error)}


answers, sys.stdout = sys.stdout, sys.stderr  # `print` goes to the worker's log
print('{"ready":1,"batch":true}', file=answers, flush=True)
for line in sys.stdin.buffer:
    print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
