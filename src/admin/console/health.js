// Is it healthy? One word, one sentence, and the consumers that are the reason.

const DOWN = { connecting: 0, held: 0, stopped: 0, draining: 1 };

const FEW = 3; // failures that are no cause for alarm

/** Whether most of a consumer's runs of the last minute failed. */
export function failing({ recent }) {
  return recent.failed >= FEW && recent.failed >= recent.succeeded;
}

/** How much a consumer wants to be looked at: 0 first. */
export function urgency(consumer) {
  return DOWN[consumer.state] ?? (failing(consumer) ? 2 : consumer.state === "paused" ? 3 : 4);
}

/** The mark of a consumer: its shape and colour. */
export function markOf(consumer) {
  if (consumer.state === "consuming") return failing(consumer) ? "bad" : "good";
  return { paused: "paused", draining: "note", stopped: "off" }[consumer.state] ?? "bad";
}

function consumersOf(n) {
  return n === 1 ? "1 consumer" : `${n} consumers`;
}

/** `{ level, word, text, consumers }`: the text holds no number that moves by itself, as it is read aloud. */
export function verdict(worker, consumers) {
  const all = consumers.length;
  const mute = worker.publishing === null ? "" : `Retries and dead letters cannot be published: ${worker.publishing}.`;
  if (worker.draining) {
    return { level: "note", word: "Draining", text: "It takes nothing new, finishes what runs, and exits.", consumers: [] };
  }
  const down = consumers.filter((consumer) => consumer.state in DOWN);
  if (down.length) {
    const text = `${down.length} of ${consumersOf(all)} ${down.length === 1 ? "does" : "do"} not consume.`;
    return { level: "bad", word: "Not ready", text: mute ? `${text} ${mute}` : text, consumers: down };
  }
  if (mute) return { level: "bad", word: "Cannot publish", text: mute, consumers: [] };
  const ill = consumers.filter(failing);
  if (ill.length) {
    const text = `Every consumer takes messages, but ${consumersOf(ill.length)} of ${all} fail${ill.length === 1 ? "s" : ""} most of its runs.`;
    return { level: "bad", word: "Failing", text: ill.length === 1 ? text : text.replace("its runs", "their runs"), consumers: ill };
  }
  if (!worker.ready) return { level: "bad", word: "Not ready", text: "The worker gives no reason.", consumers: [] };
  const paused = consumers.filter((consumer) => consumer.state === "paused");
  if (paused.length) {
    const text = `${consumersOf(all - paused.length)} consume${all - paused.length === 1 ? "s" : ""}, ${paused.length} ${paused.length === 1 ? "is" : "are"} paused on purpose.`;
    return { level: "note", word: "Paused", text, consumers: paused };
  }
  return { level: "good", word: "Healthy", text: all === 1 ? "Its consumer consumes." : `All ${all} consumers consume.`, consumers: [] };
}
