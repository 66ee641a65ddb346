"""The co-process that `scripts/bench` measures: it answers each message at once."""
import json
import sys

answers = sys.stdout.buffer
answers.write(b'{"ready":1}\n')
answers.flush()
for line in sys.stdin.buffer:
    answers.write(b'{"id":%d,"outcome":"succeeded"}\n' % json.loads(line)["id"])
    answers.flush()
