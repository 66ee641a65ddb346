// The recent failures, one by one or grouped by cause.

import { toFailures } from "./address.js";
import { byId, h, mark, say, show, stranger, Table } from "./dom.js";
import { clock, count, duration, words } from "./format.js";
import { idOf, trace, typeOf } from "./messages.js";
import { FINE } from "./store.js";
import { ask } from "./stream.js";

const SHOWN = 100;
const LONG = 240; // characters; a longer error is cut to a few lines

/** What became of the message. */
export function settlement({ settlement: what, retry_seconds: after, reason }) {
  if (what === "retry") return `retry in ${duration(after)}`;
  if (what === "dead-letter") return `dead letter${reason ? `: ${words(reason)}` : ""}`;
  return { ack: "acked", return: "returned to the queue" }[what] ?? words(what);
}

/** The key of a failure's cause. The worker names the cause: failures of one cause differ only in numbers and ids. */
function causeOf({ consumer, kind, status, cause }) {
  return JSON.stringify([consumer, kind, status, cause]);
}

function causes(failures) {
  const groups = new Map();
  for (const failure of failures) {
    const cause = causeOf(failure);
    const group = groups.get(cause);
    if (group) Object.assign(group, { count: group.count + 1, first: failure });
    else groups.set(cause, { cause, last: failure, first: failure, count: 1 });
  }
  return [...groups.values()].sort((a, b) => b.count - a.count || b.last.seq - a.last.seq);
}

export function kindOf(failure) {
  const status = [failure.class, failure.status].filter((part) => part !== null && part !== undefined && part !== "");
  return [mark(FINE.has(failure.kind) ? "good" : "bad"), words(failure.kind), status.length ? h("span", { class: "aside" }, " ", stranger(status.join(" "))) : ""];
}

/** An error's text. A long text is cut, and a button shows all of it. */
export function errorOf(failure) {
  const text = failure.error;
  if (!text) return [h("span", { class: "aside" }, "no error text")];
  const body = stranger(text, { class: "error", dir: "auto" });
  if (text.length <= LONG && text.split("\n").length <= 3) return [body];
  body.classList.add("cut");
  const more = h("button", { type: "button", class: "small", "aria-expanded": "false", onclick: () => {
    const open = !body.classList.toggle("cut");
    more.setAttribute("aria-expanded", String(open));
    say(more, open ? "Show less" : "Show all");
  } }, "Show all");
  return [body, more];
}

function ago(seconds) {
  return seconds < 1 ? "just now" : `${duration(seconds)} ago`;
}

/** Fills a cell once: a failure does not change. */
export function once(fill) {
  return (cell, item) => {
    if (!cell.firstChild) cell.append(...fill(item));
  };
}

/** The columns of a table of failures. */
export function failureColumns(store) {
  return [
    { title: "Time", class: "name time", fill: once((failure) => [h("time", { datetime: failure.at, title: failure.at }, clock(new Date(failure.at)))]) },
    { title: "Consumer", class: "consumer", fill: once(({ consumer }) => [h("a", { href: `#consumer/${encodeURIComponent(consumer)}` }, stranger(consumer))]) },
    { title: "What", class: "kind", fill: once(kindOf) },
    { title: "Then", class: "then", fill: once((failure) => [settlement(failure)]) },
    { title: "Message", class: "message", fill: once((failure) => [
      idOf(failure.id),
      h("div", { class: "aside" },
        typeOf(failure.type), failure.type ? ", " : "",
        `attempt ${failure.attempt}${failure.handling_seconds === null ? "" : `, ${duration(failure.handling_seconds)}`} `,
        trace(failure.trace_id, store.worker?.trace_url)),
    ]) },
    { title: "Error", class: "why", fill: once(errorOf) },
  ];
}

export class FailuresView {
  #consumer = null;
  #together = false;
  #held = null;
  #since = null;

  constructor(store) {
    this.store = store;
    const place = byId("failures-scroll");
    this.each = new Table(place, "Failures, newest first", failureColumns(store));
    this.together = new Table(place, "Failures by cause, most frequent first", this.#causeColumns());
    byId("failures-each").addEventListener("click", () => this.#show(false));
    byId("failures-cause").addEventListener("click", () => this.#show(true));
    byId("failures-hold").addEventListener("click", () => this.#hold());
    this.#show(false);
  }

  #causeColumns() {
    return [
      { title: "Times", class: "name number", fill: (cell, group) => {
        const { consumer, kind, cause } = group.last;
        if (!cell.firstChild) cell.append(h("a", { href: toFailures({ consumer, kind, ...(cause && { cause }) }), title: "Show each of them" }));
        say(cell.firstChild, count(group.count));
      } },
      { title: "First seen", class: "time", fill: (cell, { first }) => say(cell, clock(new Date(first.at))) },
      { title: "Last", class: "time", fill: (cell, { last }) => say(cell, ago(this.store.since(last.at))) },
      { title: "Consumer", class: "consumer", fill: once(({ last }) => [h("a", { href: `#consumer/${encodeURIComponent(last.consumer)}` }, stranger(last.consumer))]) },
      { title: "What", class: "kind", fill: once(({ last }) => kindOf(last)) },
      { title: "Last error", class: "why", fill: (cell, { last }) => {
        if (cell.dataset.seq === String(last.seq) || cell.contains(document.activeElement)) return;
        cell.dataset.seq = last.seq;
        cell.replaceChildren(...errorOf(last));
      } },
    ];
  }

  #show(together) {
    this.#together = together;
    byId("failures-each").setAttribute("aria-pressed", String(!together));
    byId("failures-cause").setAttribute("aria-pressed", String(together));
    show(this.each.element, !together);
    show(this.together.element, together);
    this.update();
  }

  #hold() {
    this.#held = this.#held ? null : this.store.failures(this.#consumer);
    byId("failures-hold").setAttribute("aria-pressed", String(this.#held !== null));
    this.update();
  }

  /** Shows the failures of a consumer, or of all (`null`), and fetches those that the worker keeps. */
  async open(consumer) {
    this.#consumer = consumer;
    if (this.#held) this.#hold();
    document.body.classList.toggle("one-consumer", consumer !== null);
    const about = consumer === null ? "" : `&consumer=${encodeURIComponent(consumer)}`;
    try {
      const { outcomes, failures_since: since } = await ask(`outcomes?failures=true&limit=500${about}`);
      this.store.takeOutcomes(outcomes.filter(({ at }) => at >= this.store.worker.started_at));
      this.#since = since;
    } catch {
      return; // the banner reports the lost contact; `open` is called again when contact is back
    }
    this.update();
  }

  /** Shows the failures that the page knows now. */
  update() {
    const now = this.store.failures(this.#consumer);
    const failures = this.#held ?? now;
    const newer = this.#held ? now.filter((failure) => failure.seq > (failures[0]?.seq ?? -1)).length : 0;
    say(byId("failures-count"), failures.length ? count(failures.length) : "");
    const oldest = failures.at(-1);
    const notes = [
      oldest ? `Back to ${clock(new Date(oldest.at))}.` : "",
      this.#since ? `The search has all failures since ${clock(new Date(this.#since))}, the log those before.` : "",
      newer ? `${count(newer)} newer ${newer === 1 ? "failure" : "failures"} not shown.` : "",
      !this.#together && failures.length > SHOWN ? `Only the newest ${SHOWN} are shown.` : "",
    ];
    say(byId("failures-note"), notes.filter(Boolean).join(" "));
    const lost = () => byId("failures-title").focus();
    if (this.#together) this.together.update(causes(failures).slice(0, SHOWN), (group) => group.cause, lost);
    else this.each.update(failures.slice(0, SHOWN), ({ at, seq }) => `${at} ${seq}`, lost);
    show(byId("failures-scroll"), failures.length > 0);
    show(byId("failures-empty"), failures.length === 0);
  }
}
