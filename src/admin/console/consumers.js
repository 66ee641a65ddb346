// The table of consumers, one row each. Those in trouble come first.

import { Spark } from "./charts.js";
import { byId, h, mark, say, show, stranger, Table } from "./dom.js";
import { change, count, duration, rate, visible } from "./format.js";
import { behind, markOf, stateOf } from "./health.js";
import { toDead } from "./address.js";
import { ask } from "./stream.js";
import { change as request } from "./token.js";

const ORDER_HOLDS = 5000; // ms between changes of order, so that rows do not move under the pointer
const SPARK_EVERY = 5000; // ms; one pixel of a spark covers more than a second

const ORDERS = {
  attention: { title: "attention first", by: ({ need }) => need, up: true },
  name: { title: "name", by: () => 0, up: true },
  ready: { title: "ready", by: ({ backlog }) => backlog.ready ?? -1 },
  growth: { title: "growth", by: ({ backlog }) => backlog.growth ?? -Infinity },
  oldest: { title: "age of the oldest", by: ({ backlog }) => backlog.oldest_seconds ?? -1 },
  received: { title: "received", by: (consumer) => consumer.rates.received },
  failed: { title: "failed", by: (consumer) => consumer.rates.failed },
  p50: { title: "median time", by: (consumer) => consumer.latency.p50_seconds ?? -1 },
  p95: { title: "95th percentile", by: (consumer) => consumer.latency.p95_seconds ?? -1 },
  in_flight: { title: "in flight", by: (consumer) => consumer.in_flight },
  dead: { title: "dead letters", by: ({ backlog }) => backlog.dead_letters ?? -1 },
};

/** Why a consumer is in its state. A pause is its own reason. */
function reasonOf({ state, reason }) {
  return state === "paused" ? "" : visible(reason ?? "");
}

function text(cell, value, kind) {
  say(cell, value);
  for (const known of ["bad", "late"]) cell.classList.toggle(known, kind === known);
}

export class ConsumersView {
  #order = "attention";
  #reversed = false;
  #sorted = [];
  #sortedAt = -Infinity;
  #visible = new Set();
  #sparks = new WeakMap();

  constructor(store, { changed }) {
    this.store = store;
    this.changed = changed;
    this.filter = byId("consumers-filter");
    this.select = byId("consumers-sort");
    for (const [name, { title }] of Object.entries(ORDERS)) this.select.append(h("option", { value: name }, title));
    this.select.addEventListener("change", () => this.#sortBy(this.select.value, false));
    this.filter.addEventListener("input", () => this.#again());
    this.table = new Table(byId("consumers-scroll"), "Consumers", this.#columns(), { keep: true });
    this.seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) this.#visible.add(target);
        else this.#visible.delete(target);
      }
      this.#drawSparks();
    }, { root: null, rootMargin: "50px" });
    this.#headings();
    this.#controls();
  }

  #controls() {
    const dialog = byId("pause-dialog");
    byId("pause-all").addEventListener("click", () => {
      say(byId("pause-lasts"), this.#lasts());
      dialog.showModal();
    });
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "yes") this.#changeAll("pause", "All consumers are paused. Running handlers finish.");
      dialog.returnValue = "";
    });
    byId("resume-all").addEventListener("click", ({ detail }) => {
      if (detail <= 1) this.#changeAll("resume", "All consumers are resumed.");
    });
  }

  #lasts() {
    return this.store.worker?.keeps_pauses
      ? "The pause lasts until somebody resumes the consumers, also across a restart."
      : "The pause ends with the process: after a restart the consumers take messages again.";
  }

  async #changeAll(what, done) {
    const answer = byId("consumers-answer");
    say(answer, "");
    try {
      const { consumers } = await request("POST", what);
      for (const consumer of consumers) this.store.replace(consumer);
      say(answer, done);
      this.changed();
    } catch (error) {
      say(answer, visible(error.message));
    }
  }

  #columns() {
    const head = (order, title) => h("button", { type: "button", "data-order": order, onclick: () => this.#sortBy(order, true) }, title);
    const number = (order, title, value, kind) => ({
      title, class: "number", head: head(order, title), fill: (cell, consumer) => text(cell, value(consumer), kind?.(consumer)),
    });
    return [
      { title: "Consumer", class: "name", head: head("name", "Consumer"), fill: (cell, consumer) => this.#name(cell, consumer) },
      { title: "State", class: "state", head: head("attention", "State"), fill: (cell, consumer) => this.#state(cell, consumer) },
      number("ready", "Ready", ({ backlog }) => count(backlog.ready)),
      number("growth", "Growth", ({ backlog }) => change(backlog.growth), (consumer) => (behind(consumer) ? "late" : "")),
      number("oldest", "Oldest", ({ backlog }) => duration(backlog.oldest_seconds)),
      number("received", "Received", ({ rates }) => rate(rates.received)),
      number("failed", "Failed", ({ rates }) => rate(rates.failed), (consumer) => (consumer.failing ? "bad" : "")),
      { title: "Throughput, 5 min", class: "spark", fill: (cell, _, row) => this.#spark(cell, row, ["failed", "received"], 1) },
      number("p50", "Median", ({ latency }) => duration(latency.p50_seconds)),
      number("p95", "95th", ({ latency }) => duration(latency.p95_seconds)),
      number("in_flight", "In flight", (consumer) => `${count(consumer.in_flight)} of ${count(consumer.prefetch)}`),
      { title: "Running", class: "number", fill: (cell, consumer) => say(cell, `${count(consumer.running)} of ${count(consumer.concurrency)}`) },
      { title: "Dead letters", class: "number", head: head("dead", "Dead letters"), fill: (cell, consumer) => this.#dead(cell, consumer) },
    ];
  }

  #name(cell, consumer) {
    if (cell.firstChild) return;
    cell.append(h("a", { href: `#consumer/${encodeURIComponent(consumer.name)}`, title: `queue ${consumer.queue}` }, stranger(consumer.name)));
  }

  /** The dead letters that wait now, as a link to their page. */
  #dead(cell, { name, backlog: { dead_letters: dead } }) {
    const page = dead ? toDead(name) : null;
    if (page === null) return say(cell, count(dead));
    if (!cell.firstElementChild) cell.replaceChildren(h("a", { href: page }));
    return say(cell.firstElementChild, count(dead));
  }

  #state(cell, consumer) {
    const kind = markOf(consumer);
    if (cell.dataset.kind !== kind) {
      cell.dataset.kind = kind;
      cell.replaceChildren(mark(kind), h("span"), " ", h("span", { class: "aside" }));
    }
    const [, state, why] = cell.children;
    say(state, stateOf(consumer));
    const reason = reasonOf(consumer);
    say(why, consumer.state === "consuming" ? "" : `${duration(this.store.since(consumer.since))}${reason ? `: ${reason}` : ""}`);
    why.title = reason;
  }

  #spark(cell, row, lines, floor) {
    if (cell.firstChild) return;
    const place = h("div", { "aria-hidden": "true" });
    cell.append(place);
    const sparks = this.#sparks.get(row) ?? { drawn: -Infinity, all: [] };
    sparks.all.push(new Spark(place, lines, floor));
    this.#sparks.set(row, sparks);
    if (sparks.all.length === 1) this.seen.observe(row);
  }

  /** Asks for histories only of rows that are in view and whose sparks are old. */
  #drawSparks() {
    if (document.hidden) return;
    const at = performance.now();
    for (const [name, row] of this.table.rows()) {
      const sparks = this.#sparks.get(row);
      if (!sparks || !this.#visible.has(row) || at - sparks.drawn < SPARK_EVERY) continue;
      sparks.drawn = at;
      ask(`consumers/${encodeURIComponent(name)}/history`)
        .then((history) => sparks.all.forEach((spark) => spark.draw(history)))
        .catch(() => {}); // the banner reports the lost contact; the next round asks again
    }
  }

  #sortBy(order, turn) {
    this.#reversed = turn && order === this.#order && !this.#reversed;
    this.#order = order;
    this.#headings();
    this.#again();
  }

  #headings() {
    this.select.value = this.#order;
    const up = (ORDERS[this.#order].up ?? false) !== this.#reversed;
    for (const head of this.table.heads) {
      const order = head.firstElementChild?.dataset.order;
      if (order === this.#order) head.setAttribute("aria-sort", up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
  }

  #again() {
    this.#sortedAt = -Infinity;
    this.update();
  }

  #sort(consumers) {
    const at = performance.now();
    const touched = this.table.element.matches(":hover, :focus-within");
    const known = new Map(this.#sorted.map((name, index) => [name, index]));
    const same = consumers.length === known.size && consumers.every((consumer) => known.has(consumer.name));
    const forced = this.#sortedAt === -Infinity;
    if (same && !forced && (touched || at - this.#sortedAt < ORDER_HOLDS)) {
      return consumers.sort((a, b) => known.get(a.name) - known.get(b.name));
    }
    const { by, up } = ORDERS[this.#order];
    const sign = (up ? 1 : -1) * (this.#reversed ? -1 : 1);
    const names = new Intl.Collator("en", { numeric: true });
    const turned = this.#order === "name" ? sign : 1;
    consumers.sort((a, b) => sign * (by(a) - by(b)) || turned * names.compare(a.name, b.name));
    this.#sorted = consumers.map((consumer) => consumer.name);
    this.#sortedAt = at;
    return consumers;
  }

  /** Shows the consumers as they are now. */
  update() {
    const wanted = this.filter.value.trim().toLowerCase();
    const all = [...this.store.consumers.values()];
    const fits = (consumer) => `${consumer.name} ${consumer.queue} ${consumer.state} ${stateOf(consumer)}`.toLowerCase().includes(wanted);
    const consumers = this.#sort(all.filter(fits));
    say(byId("consumers-count"), wanted ? `${count(consumers.length)} of ${count(all.length)}` : count(all.length));
    this.table.update(consumers, (consumer) => consumer.name, () => byId("consumers-title").focus());
    show(byId("consumers-scroll"), consumers.length > 0);
    show(byId("consumers-empty"), consumers.length === 0);
    say(byId("consumers-empty"), `No consumer matches “${this.filter.value.trim()}”.`);
    const paused = all.filter(({ state }) => state === "paused").length;
    show(byId("consumers-controls"), Boolean(this.store.worker?.can_change));
    show(byId("pause-all"), paused < all.length);
    show(byId("resume-all"), paused > 0);
    this.#drawSparks();
  }
}
