// The connection to the worker: one stream of events, and single requests.

const SILENCE = 5000; // ms; a state comes every second, and after this time without one the stream is lost
const RETRY = [500, 1000, 2000, 5000]; // ms between attempts to reconnect

/** The stream of events. Calls `state` and `outcomes` for events, `lost` and `found` when contact changes. */
export class Stream {
  #listeners;
  #source = null;
  #heard = performance.now();
  #timer = null;
  #failures = 0;
  live = false;
  /** When the last state arrived, by the browser's clock. */
  asOf = null;

  constructor(listeners) {
    this.#listeners = listeners;
    this.#open();
    setInterval(() => this.#watch(), 1000);
    // The browser may keep a left page in its back-forward cache. The page must not keep its connection:
    // browsers allow six to one address.
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

  /** A suspended worker or a cut network does not end the stream, so silence counts as its end. */
  #watch() {
    if (this.#source && performance.now() - this.#heard > SILENCE) this.#lose();
  }

  /** Reconnects later. The browser reconnects by itself only after some kinds of failure. */
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

/** Why a request failed. `status` is 0 if there was no answer. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Sends a request to the worker, and returns the JSON of the answer. */
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
 * Repeats a request, one at a time, at most once every `period` ms.
 *
 * `due()` says whether to send it now, `path()` is its path. If the path changes while a request runs,
 * its answer is thrown away.
 */
export class Poll {
  #asking = false;
  #last = -Infinity;

  constructor({ period, due, path, answer, failed }) {
    Object.assign(this, { period, due, path, answer, failed });
  }

  /** Sends the request if it is time. `now` skips the wait for `period`. */
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
