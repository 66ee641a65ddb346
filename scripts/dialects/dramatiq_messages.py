"""Publishes messages as Dramatiq writes them to the queue `recorded`, and their names to `recorded.names`.

Delayed messages go to `recorded.DQ`: they are moved as they are.
"""

import os

import dramatiq
import pika
from dramatiq.brokers.rabbitmq import RabbitmqBroker

URL = os.environ["AMQP_URL"]
broker = RabbitmqBroker(url=URL)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="recorded", actor_name="shop.add")
def add(a, b):
    return a + b


connection = pika.BlockingConnection(pika.URLParameters(URL))
channel = connection.channel()
channel.queue_declare("recorded.names", durable=True)


def record(title, message, delay=None):
    broker.enqueue(message, delay=delay)
    channel.basic_publish("", "recorded.names", title.encode())


def move_delayed():
    while True:
        method, properties, body = channel.basic_get("recorded.DQ", auto_ack=True)
        if method is None:
            return
        channel.basic_publish("", "recorded", body, properties)


def failed():
    """A message as the middleware Retries enqueues it after a failure."""
    message = add.message(2, "x")
    try:
        add.fn(*message.args)
    except TypeError as error:
        retries = next(it for it in broker.middleware if isinstance(it, dramatiq.middleware.Retries))
        retries.after_process_message(broker, message, exception=error)


record("plain", add.message(2, 3))
record("delayed", add.message(2, 3), delay=3_600_000)
move_delayed()
failed()
channel.basic_publish("", "recorded.names", b"retried")
move_delayed()
record("max_age", add.message_with_options(args=(2, 3), max_age=60_000))
record("pipeline", (add.message(2, 3) | add.message(4)).messages[0])
connection.close()
