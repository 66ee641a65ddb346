"""Publishes tasks as Celery writes them to the queue `recorded`, and their names to `recorded.names`."""

import os

from celery import Celery, chain
from kombu import Connection, Queue

URL = os.environ["AMQP_URL"]
app = Celery("shop", broker=URL, backend="rpc://")
app.conf.task_default_queue = "recorded"
app.conf.task_queues = [Queue("recorded")]


@app.task(name="shop.add")
def add(a, b, note=None):
    return a + b


def name(title):
    with Connection(URL) as connection:
        with connection.SimpleQueue("recorded.names") as names:
            names.put(title.encode(), serializer="raw")


def record(title, send):
    send()
    name(title)


quiet = {"ignore_result": True}
record("plain", lambda: add.apply_async((2, 3), {"note": "é"}, **quiet))
record("eta", lambda: add.apply_async((2, 3), countdown=3600, **quiet))
record("expires", lambda: add.apply_async((2, 3), expires=60, **quiet))
record("retried", lambda: add.apply_async((2, 3), retries=3, **quiet))
record("chain", lambda: chain(add.s(2, 3), add.s(4)).apply_async(**quiet))
record("request", lambda: add.apply_async((2, 3)))
