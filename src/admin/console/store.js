// What the page knows: the last state, a minute of states before it, and the outcomes seen.

const MINUTE = 60_000;
const OUTCOMES = 1000; // kept here; the worker keeps its own

/** The kinds of outcome that are no failure. */
const FINE = new Set(["succeeded", "dropped", "snoozed", "interrupted"]);

/** The kinds of handler run, as counted by a consumer. */
export const RUNS = [
  ["succeeded", "Succeeded"],
  ["failed", "Failed"],
  ["timed_out", "Timed out"],
  ["panicked", "Panicked"],
  ["interrupted", "Interrupted"],
  ["handler_stuck", "Ignored their cancellation"],
];

/** The ends of a delivery, as counted by a ledger. */
export const ENDS = [
  ["acked", "Acked"],
  ["parked", "Parked for a retry"],
  ["dead_lettered", "Dead-lettered"],
  ["returned", "Returned to the queue"],
  ["stale", "Stale: the broker redelivers"],
];

export class Store {
  worker = null;
  consumers = new Map();
  outcomes = [];
  #seqs = new Set();
  #samples = [];
  #offset = 0; // the worker's clock minus the browser's, ms

  /** Takes a state. True where it is another worker process than before. */
  take({ worker, consumers }) {
    const other = this.worker !== null && this.worker.started_at !== worker.started_at;
    if (other) {
      this.outcomes = [];
      this.#seqs.clear();
      this.#samples = [];
    }
    this.worker = worker;
    this.consumers = new Map(consumers.map((consumer) => [consumer.name, consumer]));
    this.#offset = Date.parse(worker.now) - Date.now();
    const at = performance.now();
    this.#samples.push({ at, consumers: this.consumers });
    // The oldest kept is the last one that is a whole minute old.
    while (this.#samples.length > 1 && at - this.#samples[1].at >= MINUTE) this.#samples.shift();
    for (const consumer of consumers) consumer.recent = this.#recent(consumer);
    return other;
  }

  /** A consumer has changed between two states. */
  replace(consumer) {
    this.consumers.set(consumer.name, consumer);
    consumer.recent = this.#recent(consumer);
  }

  /** A consumer's runs within the window; of the 10 s before where there is no window yet. */
  #recent({ name, rates, counts }) {
    const before = this.#samples[0]?.consumers.get(name)?.counts;
    if (!before || this.window() < 10) return { succeeded: 10 * rates.succeeded, failed: 10 * rates.failed };
    const grown = (key) => counts[key] - before[key];
    return { succeeded: grown("succeeded"), failed: grown("failed") + grown("timed_out") + grown("panicked") };
  }

  /** Takes outcomes in any order; each is kept once. */
  takeOutcomes(outcomes) {
    const fresh = outcomes.filter((outcome) => !this.#seqs.has(outcome.seq));
    if (!fresh.length) return;
    for (const outcome of fresh) this.#seqs.add(outcome.seq);
    this.outcomes = [...fresh, ...this.outcomes].sort((a, b) => b.seq - a.seq);
    for (const gone of this.outcomes.splice(OUTCOMES)) this.#seqs.delete(gone.seq);
  }

  /** The failures among them, newest first. */
  failures(consumer) {
    return this.outcomes.filter((outcome) => !FINE.has(outcome.kind) && (!consumer || outcome.consumer === consumer));
  }

  /** Seconds since a moment of the worker's clock. */
  since(time) {
    return (Date.now() + this.#offset - Date.parse(time)) / 1000;
  }

  /** The consumers in question: one, or all. */
  scope(name) {
    return name ? [this.consumers.get(name)].filter(Boolean) : [...this.consumers.values()];
  }

  /** How many seconds of states there are, at most 60. */
  window() {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    return first ? Math.round((last.at - first.at) / 1000) : 0;
  }

  /** A count of `part` ("counts" or "ledger"), added up: since the start, and within the window. */
  tally(name, part, key) {
    const sum = (consumers) => consumers.reduce((all, consumer) => all + (consumer?.[part]?.[key] ?? 0), 0);
    const consumers = this.scope(name);
    const before = this.#samples[0]?.consumers;
    const total = sum(consumers);
    return { total, recent: Math.max(0, total - sum(consumers.map((consumer) => before?.get(consumer.name) ?? consumer))) };
  }
}
