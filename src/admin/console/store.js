// What the page knows: the last state, a minute of states before it, and the outcomes seen.

const MINUTE = 60_000;
const OUTCOMES = 1000; // kept here; the worker keeps its own

/** The kinds of outcome that are no failure. */
const FINE = new Set(["succeeded", "dropped", "snoozed", "interrupted"]);

/** The kinds of handler run, as counted by a lane. */
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
  lanes = new Map();
  outcomes = [];
  #seqs = new Set();
  #samples = [];
  #offset = 0; // the worker's clock minus the browser's, ms

  /** Takes a state. True where it is another worker process than before. */
  take({ worker, lanes }) {
    const other = this.worker !== null && this.worker.started_at !== worker.started_at;
    if (other) {
      this.outcomes = [];
      this.#seqs.clear();
      this.#samples = [];
    }
    this.worker = worker;
    this.lanes = new Map(lanes.map((lane) => [lane.name, lane]));
    this.#offset = Date.parse(worker.now) - Date.now();
    const at = performance.now();
    this.#samples.push({ at, lanes: this.lanes });
    // The oldest kept is the last one that is a whole minute old.
    while (this.#samples.length > 1 && at - this.#samples[1].at >= MINUTE) this.#samples.shift();
    for (const lane of lanes) lane.recent = this.#recent(lane);
    return other;
  }

  /** A lane has changed between two states. */
  replace(lane) {
    this.lanes.set(lane.name, lane);
    lane.recent = this.#recent(lane);
  }

  /** A lane's runs within the window; of the 10 s before where there is no window yet. */
  #recent({ name, rates, counts }) {
    const before = this.#samples[0]?.lanes.get(name)?.counts;
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
  failures(lane) {
    return this.outcomes.filter((outcome) => !FINE.has(outcome.kind) && (!lane || outcome.lane === lane));
  }

  /** Seconds since a moment of the worker's clock. */
  since(time) {
    return (Date.now() + this.#offset - Date.parse(time)) / 1000;
  }

  /** The lanes in question: one, or all. */
  scope(name) {
    return name ? [this.lanes.get(name)].filter(Boolean) : [...this.lanes.values()];
  }

  /** How many seconds of states there are, at most 60. */
  window() {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    return first ? Math.round((last.at - first.at) / 1000) : 0;
  }

  /** A count of `part` ("counts" or "ledger"), added up: since the start, and within the window. */
  tally(name, part, key) {
    const sum = (lanes) => lanes.reduce((all, lane) => all + (lane?.[part]?.[key] ?? 0), 0);
    const lanes = this.scope(name);
    const before = this.#samples[0]?.lanes;
    const total = sum(lanes);
    return { total, recent: Math.max(0, total - sum(lanes.map((lane) => before?.get(lane.name) ?? lane))) };
  }
}
