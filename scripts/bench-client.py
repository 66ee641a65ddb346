"""The co-process that `scripts/bench` measures: it answers each line at once."""
import json
import sys

answers = sys.stdout.buffer
answers.write(b'{"ready":1,"batch":true}\n')
answers.flush()
for line in sys.stdin.buffer:
    line = json.loads(line)
    if "messages" in line:
        outcomes = b",".join(b'{"id":%d,"outcome":"succeeded"}' % message["id"] for message in line["messages"])
        answers.write(b'{"id":%d,"outcomes":[%s]}\n' % (line["id"], outcomes))
    else:
        answers.write(b'{"id":%d,"outcome":"succeeded"}\n' % line["id"])
    answers.flush()
