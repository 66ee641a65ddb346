// The messages in flight, oldest first, a page at a time.

import { byId, facts, h, say, show, stranger, Table } from "./dom.js";
import { count, duration, NONE, visible, words } from "./format.js";
import { idOf, trace, typeOf } from "./messages.js";
import { Poll } from "./stream.js";
import { change } from "./token.js";

const PAGE = 50;

export class InFlightView {
  #consumer = null;
  #offset = 0;
  #total = 0;
  #asked = null;
  #near = false;

  constructor(store, live) {
    this.store = store;
    this.table = new Table(byId("in-flight-scroll"), "Messages in flight, oldest first", this.#columns());
    new IntersectionObserver(([entry]) => {
      this.#near = entry.isIntersecting;
      this.poll.tick();
    }, { rootMargin: "800px" }).observe(byId("in-flight"));
    this.poll = new Poll({
      period: 1000,
      due: () => this.#near && live(),
      path: () => `in-flight?limit=${PAGE}&offset=${this.#offset}${this.#consumer === null ? "" : `&consumer=${encodeURIComponent(this.#consumer)}`}`,
      answer: (answer) => this.#show(answer),
    });
    byId("page-first").addEventListener("click", () => this.#page(0));
    byId("page-previous").addEventListener("click", () => this.#page(this.#offset - PAGE));
    byId("page-next").addEventListener("click", () => this.#page(this.#offset + PAGE));
    byId("cancel-dialog").addEventListener("close", ({ target }) => {
      const message = this.#asked;
      this.#asked = null;
      if (target.returnValue === "yes" && message) this.#cancel(message);
      target.returnValue = "";
    });
  }

  #columns() {
    const fixed = (fill) => (cell, message) => { if (!cell.firstChild) cell.append(...fill(message)); };
    return [
      { title: "Age", class: "name number", fill: (cell, { age_seconds: age }) => say(cell, duration(age)) },
      { title: "Consumer", class: "consumer", fill: fixed(({ consumer }) => [h("a", { href: `#consumer/${encodeURIComponent(consumer)}` }, stranger(consumer))]) },
      { title: "Phase", class: "phase", fill: (cell, { phase }) => say(cell, words(phase)) },
      { title: "Handling", class: "number", fill: (cell, { handling_seconds: time }) => say(cell, duration(time)) },
      { title: "Attempt", class: "number", fill: (cell, { attempt }) => say(cell, count(attempt)) },
      { title: "Id", class: "id", fill: fixed(({ id }) => [idOf(id)]) },
      { title: "Type", class: "type", fill: fixed(({ type }) => [typeOf(type) ?? NONE]) },
      { title: "Routing key", class: "key-of", fill: fixed(({ routing_key: key }) => [typeOf(key) ?? NONE]) },
      { title: "Trace", class: "trace", fill: (cell, { trace_id: id }) => {
        if (cell.dataset.id !== (id ?? "")) {
          cell.dataset.id = id ?? "";
          cell.replaceChildren(trace(id, this.store.worker?.trace_url) ?? NONE);
        }
      } },
      { title: "Change", class: "action", fill: (cell, message, row) => this.#action(cell, message, row) },
    ];
  }

  #action(cell, message, row) {
    row.message = message;
    const possible = message.phase === "handling" && Boolean(this.store.worker?.can_change);
    if (possible === Boolean(cell.firstChild)) return;
    cell.replaceChildren();
    if (!possible) return;
    const name = message.id ? `Cancel ${visible(message.id)}` : `Cancel delivery ${message.delivery}`;
    cell.append(h("button", { type: "button", class: "small", "aria-label": name, onclick: () => this.#ask(row.message) }, "Cancel"));
  }

  #ask(message) {
    this.#asked = message;
    facts(byId("cancel-facts"), [
      ["Consumer", visible(message.consumer)],
      ["Message", message.id ? visible(message.id) : "no id"],
      ["Type", message.type ? visible(message.type) : NONE],
      ["Running for", duration(message.handling_seconds)],
      ["Delivery", message.delivery],
    ]);
    byId("cancel-dialog").showModal();
  }

  async #cancel({ consumer, delivery, id }) {
    const answer = byId("in-flight-answer");
    const name = id ? visible(id) : `Delivery ${delivery}`;
    say(answer, "");
    try {
      await change("POST", `in-flight/${encodeURIComponent(consumer)}/${encodeURIComponent(delivery)}/cancel`);
      say(answer, `${name} was cancelled.`);
    } catch (error) {
      say(answer, visible(error.message));
    }
    this.poll.tick(true);
  }

  #page(offset) {
    this.#offset = Math.max(0, offset);
    this.poll.tick(true);
  }

  #show({ total, messages, unanswered = [] }) {
    this.#total = total;
    if (!messages.length && total > 0 && this.#offset > 0) {
      this.#page(Math.floor((total - 1) / PAGE) * PAGE);
      return;
    }
    // A restarted worker numbers its deliveries from the beginning, so the key has its start time.
    const { started_at: worker } = this.store.worker;
    this.table.update(messages, ({ consumer, delivery }) => `${worker} ${consumer} ${delivery}`, () => byId("in-flight-title").focus());
    const oldest = this.#offset === 0 && messages.length ? `, oldest ${duration(messages[0].age_seconds)}` : "";
    const silent = unanswered.length ? `; no answer from ${unanswered.join(", ")}` : "";
    say(byId("in-flight-count"), `${count(total)}${oldest}${silent}`);
    say(byId("page-where"), messages.length ? `${count(this.#offset + 1)}–${count(this.#offset + messages.length)} of ${count(total)}` : "");
    this.#button("page-first", this.#offset > 0);
    this.#button("page-previous", this.#offset > 0);
    this.#button("page-next", this.#offset + messages.length < total);
    show(byId("page-first").parentElement, total > PAGE || this.#offset > 0);
    show(byId("in-flight-scroll"), messages.length > 0);
    show(byId("in-flight-empty"), messages.length === 0);
  }

  /** Sets `aria-disabled`, not `disabled`: a disabled button loses the focus of a keyboard user. */
  #button(id, possible) {
    byId(id).setAttribute("aria-disabled", String(!possible));
  }

  /** Shows the messages of a consumer, or of all (`null`). */
  open(consumer) {
    this.#consumer = consumer;
    this.#offset = 0;
    say(byId("in-flight-answer"), "");
    this.poll.tick(true);
  }

  /** Asks for the current page again, if it is time. */
  update() {
    this.poll.tick();
  }
}
