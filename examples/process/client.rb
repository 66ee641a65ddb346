#!/usr/bin/env ruby
# A co-process for Lapwing's handler of kind `process`. Copy it, and write your own `handle`.
require "json"

# Every attempt would fail: the message becomes a dead letter. So it does if its JSON cannot be read.
# Any other error is retried.
class Permanent < StandardError; end
# A service that the work needs is down: the message waits for it, and no attempt is charged.
class Unavailable < StandardError; end

def handle(message, body)
  order = JSON.parse(body)
  raise Permanent, "negative price" if order["cents"].to_i.negative?
end

def outcome(message)
  handle(message, message["body"] || message["body_base64"].unpack1("m"))
  { outcome: "succeeded" }
rescue Permanent, JSON::ParserError, EncodingError => e
  { outcome: "permanent", error: e.message.scrub }
rescue Unavailable => e
  { outcome: "unavailable", error: e.message }
rescue StandardError => e
  { outcome: "retry", class: e.class.name, error: e.message.scrub }
end

$stdout = $stderr # `puts` goes to the worker's log
STDOUT.sync = true
STDOUT.puts '{"ready":1}'
STDIN.set_encoding("UTF-8")
STDIN.each_line do |line|
  message = JSON.parse(line)
  STDOUT.puts JSON.generate({ id: message["id"] }.merge(outcome(message)))
end
