// The data of the page: the last state, the states of the minute before it, and the outcomes received.

const MINUTE = 60_000;
const OUTCOMES = 1000; // kept by the page; the worker keeps its own

/** The kinds of outcome that are not failures. */
export const FINE = new Set(["succeeded", "dropped", "duplicate", "snoozed", "interrupted"]);

/** The outcomes of handler runs that a consumer counts. */
export const RUNS = [
  ["succeeded", "Succeeded"],
  ["failed", "Failed with an error"],
  ["unavailable", "Service unavailable"],
  ["timed_out", "Timed out"],
  ["panicked", "Panicked"],
  ["interrupted", "Interrupted"],
  ["handler_stuck", "Stuck handlers"],
];

/** The ends of deliveries that a ledger counts. */
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

  /** Takes a state. Returns true if it comes from another worker process than the last one. */
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
    // Keep one sample that is a minute old or more, and all newer ones.
    while (this.#samples.length > 1 && at - this.#samples[1].at >= MINUTE) this.#samples.shift();
    return other;
  }

  /** Replaces a consumer that has changed between two states. */
  replace(consumer) {
    this.consumers.set(consumer.name, consumer);
  }

  /** Takes outcomes in any order, and keeps each once. */
  takeOutcomes(outcomes) {
    const fresh = outcomes.filter((outcome) => !this.#seqs.has(outcome.seq));
    if (!fresh.length) return;
    for (const outcome of fresh) this.#seqs.add(outcome.seq);
    this.outcomes = [...fresh, ...this.outcomes].sort((a, b) => b.seq - a.seq);
    for (const gone of this.outcomes.splice(OUTCOMES)) this.#seqs.delete(gone.seq);
  }

  /** The failures among the outcomes, newest first. */
  failures(consumer) {
    return this.outcomes.filter((outcome) => !FINE.has(outcome.kind) && (!consumer || outcome.consumer === consumer));
  }

  /** Seconds since a moment of the worker's clock. */
  since(time) {
    return (Date.now() + this.#offset - Date.parse(time)) / 1000;
  }

  /** The consumer with this name, or all consumers without a name. */
  scope(name) {
    return name ? [this.consumers.get(name)].filter(Boolean) : [...this.consumers.values()];
  }

  /** The number of seconds that the kept states cover, at most 60. */
  window() {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    return first ? Math.round((last.at - first.at) / 1000) : 0;
  }

  /** The sum of a count of `part` ("counts" or "ledger"): since the start, and within the window. */
  tally(name, part, key) {
    const sum = (consumers) => consumers.reduce((all, consumer) => all + (consumer?.[part]?.[key] ?? 0), 0);
    const consumers = this.scope(name);
    const before = this.#samples[0]?.consumers;
    const total = sum(consumers);
    return { total, recent: Math.max(0, total - sum(consumers.map((consumer) => before?.get(consumer.name) ?? consumer))) };
  }
}
