<?php // A co-process for Lapwing's handler of kind `process`. Copy it, and write your own `handle`.

// Every attempt would fail: the message becomes a dead letter. So it does if its JSON cannot be read.
// Any other error is retried.
class Permanent extends Exception {}
// A service that the work needs is down: the message waits for it, and no attempt is charged.
class Unavailable extends Exception {}

function handle(array $message, string $body): void {
    $order = json_decode($body, true, 512, JSON_THROW_ON_ERROR);
    if (($order['cents'] ?? 0) < 0) throw new Permanent('negative price');
}

function outcome(array $message): array {
    try {
        handle($message, $message['body'] ?? base64_decode($message['body_base64']));
        return ['outcome' => 'succeeded'];
    } catch (Permanent | JsonException $error) {
        return ['outcome' => 'permanent', 'error' => $error->getMessage()];
    } catch (Unavailable $error) {
        return ['outcome' => 'unavailable', 'error' => $error->getMessage()];
    } catch (Throwable $error) {
        return ['outcome' => 'retry', 'class' => get_class($error), 'error' => $error->getMessage()];
    }
}

function say(array $value): void {
    fwrite(STDOUT, json_encode($value, JSON_THROW_ON_ERROR | JSON_INVALID_UTF8_SUBSTITUTE) . "\n");
}

ini_set('display_errors', 'stderr');
ob_start(fn ($text) => fwrite(STDERR, $text) ? '' : '', 1); // `echo` goes to the worker's log
say(['ready' => 1]);
while (($line = fgets(STDIN)) !== false) {
    $message = json_decode($line, true, 512, JSON_THROW_ON_ERROR);
    say(['id' => $message['id']] + outcome($message));
}
