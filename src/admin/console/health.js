// The health of the worker: one word, one sentence, and the consumers that are the reason.

import { count, words } from "./format.js";

/** The states in which a consumer takes no messages, against its will. */
const DOWN = new Set(["connecting", "held", "stopped", "draining"]);

/** The loads that do not keep up, and what the page calls them. */
const BEHIND = { "at-limit": "at its limit", growing: "falling behind" };

/** What to call a consumer that takes messages and does not keep up with its queue; else `null`. */
export function behind({ state, backlog }) {
  return state === "consuming" ? BEHIND[backlog.load] ?? null : null;
}

/** The word for a consumer's state. */
export function stateOf(consumer) {
  if (consumer.state === "consuming" && consumer.failing) return "failing";
  return behind(consumer) ?? words(consumer.state);
}

/** How many runs of a failing consumer fail. */
export function failingRuns({ recent: { failed, succeeded } }) {
  return `${count(failed)} of ${count(failed + succeeded)} handler runs of the last minute failed`;
}

const LIMITS = {
  concurrency: "All its handler slots are busy, and its queue grows.",
  rate: "Its rate is reached, and its queue grows.",
  prefetch: "Its prefetch is full, and its queue grows.",
};

/** Why a consumer does not keep up, as a sentence; "" if it does. */
export function whyBehind({ state, backlog }) {
  if (state !== "consuming") return "";
  if (backlog.load === "growing") return "Its queue grows although it has free handler slots.";
  return LIMITS[backlog.limit] ?? "";
}

/** The class of a consumer's mark, which sets shape and colour. */
export function markOf(consumer) {
  if (consumer.state === "consuming") return consumer.failing ? "bad" : behind(consumer) ? "note" : "good";
  return { paused: "paused", draining: "note", "service-unknown": "note", stopped: "off" }[consumer.state] ?? "bad";
}

function draining(worker) {
  const begins = "The worker takes no new messages, waits for running handlers, and exits.";
  if (worker.drain_ends_at === null) return begins;
  const ends = new Date(worker.drain_ends_at).toLocaleTimeString();
  return `${begins} At ${ends} it cancels those that still run, and returns their messages.`;
}

function consumersOf(n) {
  return n === 1 ? "1 consumer" : `${n} consumers`;
}

/**
 * `{ level, word, text, consumers }`. Screen readers read the text aloud whenever it changes, so it holds
 * no number that changes all the time.
 */
export function verdict(worker, consumers) {
  const all = consumers.length;
  const mute = worker.publishing === null ? "" : `Retries and dead letters cannot be published: ${worker.publishing}.`;
  if (worker.draining) {
    return { level: "note", word: "Draining", text: draining(worker), consumers: [] };
  }
  const down = consumers.filter((consumer) => DOWN.has(consumer.state));
  if (down.length) {
    const text = `${down.length} of ${consumersOf(all)} ${down.length === 1 ? "takes" : "take"} no messages.`;
    return { level: "bad", word: "Not ready", text: mute ? `${text} ${mute}` : text, consumers: down };
  }
  if (mute) return { level: "bad", word: "Cannot publish", text: mute, consumers: [] };
  const degraded = consumers.filter((consumer) => consumer.state === "service-down");
  if (degraded.length) {
    const text = `The service of ${degraded.length} of ${consumersOf(all)} is down. No message is lost.`;
    return { level: "bad", word: "Service down", text, consumers: degraded };
  }
  const ill = consumers.filter(({ failing }) => failing);
  if (ill.length) {
    const text = `${ill.length} of ${consumersOf(all)} ${ill.length === 1 ? "fails most of its" : "fail most of their"} handler runs.`;
    return { level: "bad", word: "Failing", text, consumers: ill };
  }
  if (!worker.ready) return { level: "bad", word: "Not ready", text: "The worker gives no reason.", consumers: [] };
  for (const [load, word] of [["at-limit", "At its limit"], ["growing", "Falling behind"]]) {
    const late = consumers.filter((consumer) => behind(consumer) && consumer.backlog.load === load);
    if (!late.length) continue;
    const one = late.length === 1;
    const [its, it, queue] = one ? ["its", "it runs", "queue grows"] : ["their", "they run", "queues grow"];
    const why = load === "growing" ? `${its} ${queue}` : `${its} ${queue} while ${it} as much as the settings allow`;
    return { level: "note", word, text: `${late.length} of ${consumersOf(all)} ${one ? "does" : "do"} not keep up: ${why}.`, consumers: late };
  }
  const unknown = consumers.filter((consumer) => consumer.state === "service-unknown");
  if (unknown.length) {
    const text = `The service of ${unknown.length} of ${consumersOf(all)} was down when it was last tried. No message has come since.`;
    return { level: "note", word: "Service unknown", text, consumers: unknown };
  }
  const paused = consumers.filter((consumer) => consumer.state === "paused");
  if (paused.length) {
    const text = `${consumersOf(all - paused.length)} ${all - paused.length === 1 ? "takes" : "take"} messages, ${paused.length} ${paused.length === 1 ? "is" : "are"} paused on purpose.`;
    return { level: "note", word: "Paused", text, consumers: paused };
  }
  return { level: "good", word: "Healthy", text: all === 1 ? "The consumer takes messages." : `All ${all} consumers take messages.`, consumers: [] };
}
