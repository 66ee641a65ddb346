#!/usr/bin/env node
// A co-process for Lapwing's handler of kind `process`. Copy it, and write your own `handle`.
const readline = require('node:readline')

// Every attempt would fail: the message becomes a dead letter. So it does if its JSON cannot be read.
// Any other error is retried.
class Permanent extends Error {}
// A service that the work needs is down: the message waits for it, and no attempt is charged.
class Unavailable extends Error {}

async function handle (message, body) {
  const order = JSON.parse(body)
  if (order.cents < 0) throw new Permanent('negative price')
}

async function outcome (message) {
  try {
    await handle(message, message.body ?? Buffer.from(message.body_base64, 'base64'))
    return { outcome: 'succeeded' }
  } catch (error) {
    const word = error instanceof Permanent || error instanceof SyntaxError
      ? 'permanent'
      : error instanceof Unavailable ? 'unavailable' : 'retry'
    return { outcome: word, class: error.name, error: error.message }
  }
}

const say = value => process.stdout.write(JSON.stringify(value) + '\n')
console.log = console.error // goes to the worker's log

async function main () {
  say({ ready: 1 })
  for await (const line of readline.createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    const message = JSON.parse(line)
    say({ id: message.id, ...await outcome(message) })
  }
}
main()
