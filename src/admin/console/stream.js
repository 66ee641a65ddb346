// What the worker says: one stream of events, and answers to questions.

const SILENCE = 5000; // ms without a state, which comes every second, after which the stream is lost
const RETRY = [500, 1000, 2000, 5000]; // ms between attempts to get it back

/** The stream of events. Tells `state`, `outcomes`, and `lost` or `found` when that changes. */
export class Stream {
  #listeners;
  #source = null;
  #heard = performance.now();
  #timer = null;
  #failures = 0;
  live = false;
  /** When the last state came, as the browser's date. */
  asOf = null;

  constructor(listeners) {
    this.#listeners = listeners;
    this.#open();
    setInterval(() => this.#watch(), 1000);
    // A page that the browser keeps to come back to would keep its connection, one of six.
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", (event) => { if (event.persisted) this.#lose(); });
  }

  #close() {
    this.#source?.close();
    this.#source = null;
  }

  #open() {
    this.#timer = null;
    this.#heard = performance.now();
    const source = new EventSource("api/v1/events");
    this.#source = source;
    source.addEventListener("state", (event) => {
      this.#heard = performance.now();
      this.#failures = 0;
      this.asOf = new Date();
      const found = !this.live;
      this.live = true;
      if (found) this.#listeners.found();
      this.#listeners.state(JSON.parse(event.data));
    });
    source.addEventListener("outcomes", (event) => this.#listeners.outcomes(JSON.parse(event.data).outcomes));
    source.addEventListener("error", () => this.#lose());
  }

  /** A worker that is stopped, or a cut network, ends no stream: silence must. */
  #watch() {
    if (this.#source && performance.now() - this.#heard > SILENCE) this.#lose();
  }

  /** The browser would try again too, but not after every kind of failure. */
  #lose() {
    this.#close();
    const wait = RETRY[Math.min(this.#failures, RETRY.length - 1)];
    this.#failures += 1;
    this.#timer ??= setTimeout(() => this.#open(), wait);
    if (this.live || this.#failures === 1) {
      this.live = false;
      this.#listeners.lost();
    }
  }
}

/** Why a question got no answer: `status` is 0 where nobody answered. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Asks the worker; the answer's JSON. */
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(`api/v1/${path}`, { cache: "no-store", signal: AbortSignal.timeout(10_000), ...options });
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Refused(0, late ? "the worker did not answer within 10 s" : "the worker cannot be reached");
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, body.error ?? (answer.statusText || "no reason given"));
  return body;
}

/**
 * Asks the same question again and again, one at a time, not more often than every `period` ms.
 *
 * `due()` says whether it is wanted now; `path()` what is asked. An answer to a question that has
 * changed meanwhile is thrown away.
 */
export class Poll {
  #asking = false;
  #last = -Infinity;

  constructor({ period, due, path, answer, failed }) {
    Object.assign(this, { period, due, path, answer, failed });
  }

  /** Asks, if it is time; `now` asks in any case. */
  async tick(now = false) {
    const at = performance.now();
    if (this.#asking || (!now && at - this.#last < this.period - 50) || !this.due()) return;
    this.#asking = true;
    this.#last = at;
    const path = this.path();
    try {
      const answer = await ask(path);
      if (path === this.path()) this.answer(answer);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (path === this.path()) this.failed?.(error);
    } finally {
      this.#asking = false;
      if (path !== this.path()) this.tick(true);
    }
  }
}
