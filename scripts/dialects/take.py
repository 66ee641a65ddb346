"""Takes the messages of the queue `recorded` and writes them to tests/dialects/NAME.json.

Each message has a header `recording` with its name, or the queue `recorded.names` has the names in order.
"""

import json
import os
import socket
import sys

import pika

PROPERTIES = [
    "content_type", "content_encoding", "delivery_mode", "priority", "correlation_id", "reply_to",
    "expiration", "message_id", "timestamp", "type", "user_id", "app_id",
]


def plain(value):
    """A header as JSON. The name of the machine does not belong into a recording."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value.replace(socket.gethostname(), "host")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)


def everything(channel, queue):
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return
        yield properties, body


def main():
    name = sys.argv[1]
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    names = [body.decode() for _, body in everything(channel, "recorded.names")]
    messages = {}
    for title, (properties, body) in zip(names, everything(channel, "recorded"), strict=True):
        written = {key: getattr(properties, key) for key in PROPERTIES}
        messages[title] = {
            "properties": {key: plain(value) for key, value in written.items() if value is not None},
            "headers": plain(properties.headers or {}),
            "body": body.decode("utf-8", "replace"),
        }
    for queue in ["recorded", "recorded.names", "recorded.DQ", "recorded.XQ", "recorded.retry"]:
        channel = connection.channel()
        channel.queue_delete(queue)
    connection.close()
    with open(f"tests/dialects/{name}.json", "w", encoding="utf-8") as file:
        json.dump(messages, file, indent=2, ensure_ascii=False)
        file.write("\n")
    print(f"{name}: {', '.join(messages)}")


main()
