// The page of one message: where it is, and where it spent its time, as far as this worker knows.

import { toDead } from "./address.js";
import { facts, h, say, show, stranger, Table } from "./dom.js";
import { errorOf, kindOf, once, settlement } from "./failures.js";
import { clock, count, duration, NONE, visible, words } from "./format.js";
import { trace } from "./messages.js";
import { Poll } from "./stream.js";

const PARTS = [
  { key: "queued", title: "at the broker" },
  { key: "waited", title: "waiting for a slot" },
  { key: "ran", title: "in its handler" },
  { key: "delayed", title: "backing off in the worker" },
];

const seconds = (time) => Date.parse(time) / 1000;

/**
 * The runs of a message, oldest first, each with its waits in seconds: `queued` (at the broker, before the
 * delivery), `waited` (for a handler slot) and `delayed` (backing off in the worker, before the run).
 */
export function runsOf(outcomes) {
  let before = null;
  return [...outcomes].reverse().map((outcome) => {
    const ran = outcome.handling_seconds ?? 0;
    const start = seconds(outcome.at) - ran;
    // Several runs of one delivery: the worker itself waited between them.
    const isSame = before !== null && before.received_at === outcome.received_at;
    const delayed = isSame ? before.retry_seconds ?? 0 : 0;
    const from = isSame ? seconds(before.at) + delayed : seconds(outcome.received_at);
    before = outcome;
    return { outcome, ran, delayed, waited: Math.max(0, start - from), queued: isSame ? 0 : outcome.queued_seconds };
  });
}

export class MessagePage {
  #id = "";
  /** What the page shows: all that is known of the message. */
  #story = null;

  constructor(place, store) {
    this.store = store;
    this.title = h("h2", { tabindex: "-1" });
    this.where = h("div", { class: "where", role: "status" });
    this.flights = h("div");
    this.bar = h("div", { class: "spent", role: "img" });
    this.key = h("p", { class: "note" });
    this.runs = h("div", { class: "scroll", role: "group", "aria-label": "Handler runs", tabindex: "0" });
    this.past = h("div", { class: "scroll", role: "group", "aria-label": "Earlier attempts", tabindex: "0" });
    this.note = h("p", { class: "note" });
    place.classList.add("message-page", "failures");
    place.append(this.title, this.where, this.flights, this.bar, this.key, this.runs, this.past, this.note);
    this.table = new Table(this.runs, "Handler runs of the message in this worker, newest first", this.#columns());
    this.history = new Table(this.past, "Earlier attempts, from the headers of the message", this.#pastColumns());
    this.poll = new Poll({
      period: 2000,
      due: () => this.#id !== "" && !document.hidden,
      // The worker reads its file once for the page. What is new is in its memory.
      path: () => `message?id=${encodeURIComponent(this.#id)}${this.#story ? "&file=false" : ""}`,
      answer: (story) => this.#show(this.#join(story)),
      failed: (error) => this.#say([{ text: `The worker does not tell: ${visible(error.message)}.` }]),
    });
  }

  #columns() {
    const of = (fill) => once(({ outcome }) => fill(outcome));
    const link = (id) => trace(id, this.store.worker?.trace_url) ?? NONE;
    return [
      { title: "Ended", class: "name time", fill: of(({ at }) => [h("time", { datetime: at, title: at }, clock(new Date(at)))]) },
      { title: "Consumer", class: "consumer", fill: of(({ consumer }) => [h("a", { href: `#consumer/${encodeURIComponent(consumer)}` }, stranger(consumer))]) },
      { title: "Attempt", class: "number", fill: of(({ attempt }) => [count(attempt)]) },
      { title: "At the broker", class: "number", fill: once(({ queued }) => [duration(queued)]) },
      { title: "For a slot", class: "number", fill: once(({ waited }) => [duration(waited)]) },
      { title: "Ran", class: "number", fill: of(({ handling_seconds: ran }) => [duration(ran)]) },
      { title: "What", class: "kind", fill: of(kindOf) },
      { title: "Then", class: "then", fill: of((outcome) => [settlement(outcome), outcome.retry_queue ? h("div", { class: "aside" }, "in ", stranger(outcome.retry_queue)) : ""]) },
      { title: "Trace", class: "trace", fill: of(({ trace_id: id }) => [link(id)]) },
      { title: "Error", class: "why", fill: of((outcome) => (outcome.error ? errorOf(outcome) : [NONE])) },
    ];
  }

  #pastColumns() {
    return [
      { title: "Ended", class: "name time", fill: once(({ at }) => [h("time", { datetime: at, title: at }, clock(new Date(at)))]) },
      { title: "Attempt", class: "number", fill: once(({ attempt }) => [count(attempt)]) },
      { title: "Class", class: "kind", fill: once((run) => [stranger(run.class)]) },
      { title: "Worker", class: "worker", fill: once(({ worker }) => [stranger(worker)]) },
      { title: "Trace", class: "trace", fill: once(({ trace_id: id }) => [trace(id, this.store.worker?.trace_url) ?? NONE]) },
      { title: "Error", class: "why", fill: once(errorOf) },
    ];
  }

  open(argument) {
    this.#id = argument;
    this.#story = null;
    this.title.replaceChildren("Message ", argument ? stranger(argument, { class: "code" }) : "");
    this.#say([{ text: argument ? "Asking the worker." : "Give the id of a message above." }]);
    this.flights.replaceChildren();
    this.table.update([], () => "");
    this.history.update([], () => "");
    for (const part of [this.bar, this.key, this.runs, this.past]) show(part, false);
    say(this.note, "");
    this.poll.tick(true);
  }

  update() {
    this.poll.tick();
  }

  close() {
    this.#id = "";
  }

  /** Joins an answer to what the page has. */
  #join(story) {
    const { outcomes = [], places = [], failures_since = story.failures_since, file_error = story.file_error } = this.#story ?? {};
    const all = new Map([...outcomes, ...story.outcomes].map((outcome) => [`${outcome.at} ${outcome.seq}`, outcome]));
    const newest = [...all.values()].sort((a, b) => Date.parse(b.at) - Date.parse(a.at) || b.seq - a.seq);
    // Later answers leave the file out, and so what is known from the file alone.
    const known = new Set(story.places.map(({ consumer }) => consumer));
    const before = places.filter(({ consumer, state }) => !known.has(consumer) && state !== "in-flight");
    this.#story = { ...story, outcomes: newest, places: [...story.places, ...before], failures_since, file_error };
    return this.#story;
  }

  #show(story) {
    const { in_flight: flights, outcomes, failures_since: since, acks_since: acks, file_error: error } = story;
    const runs = runsOf(outcomes);
    this.#showWhere(story);
    this.#showFlights(flights);
    this.#showSpent(runs);
    this.table.update([...runs].reverse(), ({ outcome }) => `${outcome.at} ${outcome.seq}`);
    show(this.runs, runs.length > 0);
    const past = flights.flatMap(({ history }) => history).reverse();
    this.history.update(past, ({ at, attempt }) => `${at} ${attempt}`);
    show(this.past, past.length > 0);
    say(this.note, `This page knows this worker alone. It has each failure since ${clock(new Date(since))}, knows what it acked since ${clock(new Date(acks))}, and shows few other runs. The log has those before.${error ? ` ${visible(error)}.` : ""}`);
  }

  /** A line for each consumer that had the message: what this worker saw last of it there. */
  #showWhere({ places, in_flight: flights, unanswered }) {
    const lines = places.map((place) => ({
      text: this.#whereabouts(place, flights.find(({ consumer }) => consumer === place.consumer)),
      page: place.state === "dead-lettered" ? toDead(place.consumer) : null,
    }));
    if (!places.length) lines.push({ text: "This worker does not have it, and knows no ack and no failure of it. It is in a queue, in another worker, or longer ago." });
    if (unanswered.length) lines.push({ text: `${unanswered.map(visible).join(", ")} gave no answer: the message may be there.` });
    this.#say(lines);
  }

  /** Shows these lines. Those that are equal stay, and with them the focus. */
  #say(lines) {
    while (this.where.children.length > lines.length) this.where.lastChild.remove();
    while (this.where.children.length < lines.length) this.where.append(h("p", {}, h("span"), " ", h("a", { hidden: true }, "Its dead letters")));
    lines.forEach(({ text, page }, index) => {
      const [words, link] = this.where.children[index].children;
      say(words, text);
      show(link, Boolean(page));
      if (page) link.href = page;
    });
  }

  #whereabouts({ consumer, state, at, due_at: due, queue, reason, may_be_acked: unknown }, flight) {
    const name = visible(consumer);
    const when = clock(new Date(at));
    const next = due ? clock(new Date(due)) : NONE;
    const place = queue ? ` in ${visible(queue)}` : "";
    const isDue = state === "due" || (state === "waiting" && this.store.since(due) > 0);
    if (state === "in-flight") return `In flight in consumer ${name} for ${duration(flight?.age_seconds)}: ${words(flight?.phase)}.`;
    if (state === "handled") return `The handler of consumer ${name} was done with it at ${when}, and the ack follows.`;
    if (state === "waiting" && !isDue) return `It failed in consumer ${name} at ${when}, and waits${place} for its next attempt at ${next}, in any worker.`;
    const last = {
      "dead-lettered": `Consumer ${name} dead-lettered it${place} at ${when}${reason ? ` (${words(visible(reason))})` : ""}.`,
      returned: `Consumer ${name} returned it to its queue at ${when}, and has not had it since.`,
    }[state] ?? `It failed in consumer ${name} at ${when}. Its next attempt was due at ${next}, and this worker has not had it since.`;
    return unknown ? `${last} It may have been acked since then: this worker does not know.` : last;
  }

  #showFlights(flights) {
    // A message may be in flight twice, after a lost connection.
    while (this.flights.children.length > flights.length) this.flights.lastChild.remove();
    while (this.flights.children.length < flights.length) this.flights.append(h("dl", { class: "flight" }));
    flights.forEach((flight, index) => facts(this.flights.children[index], [
      ["Phase", words(flight.phase)],
      ["Attempt", count(flight.attempt)],
      ["Type", flight.type ? visible(flight.type) : NONE],
      ["Published", flight.published_at ? clock(new Date(flight.published_at)) : "not known"],
      ["First seen by a worker", clock(new Date(flight.first_seen_at))],
      ["At the broker before", duration(flight.queued_seconds)],
      ["In this worker for", duration(flight.age_seconds)],
      ["Handler runs for", duration(flight.handling_seconds)],
      ["Trace", trace(flight.trace_id, this.store.worker?.trace_url) ?? NONE],
    ]));
  }

  /** One bar for the time that the runs took together, by where it went. */
  #showSpent(runs) {
    const sums = PARTS.map(({ key, title }) => ({ key, title, sum: runs.reduce((all, run) => all + (run[key] ?? 0), 0) }));
    const total = sums.reduce((all, { sum }) => all + sum, 0);
    const text = sums.filter(({ sum }) => sum > 0).map(({ title, sum }) => `${duration(sum)} ${title}`).join(", ");
    show(this.bar, total > 0);
    show(this.key, total > 0);
    this.bar.setAttribute("aria-label", text);
    say(this.key, `Of these runs: ${text}.`);
    if (this.bar.children.length === 0) this.bar.append(...PARTS.map(({ key, title }) => h("span", { class: `part ${key}`, title })));
    sums.forEach(({ sum }, index) => { this.bar.children[index].style.width = `${total > 0 ? (100 * sum) / total : 0}%`; });
  }
}
