// The table of lanes: every one a row, those in trouble first.

import { Spark } from "./charts.js";
import { byId, h, mark, say, show, stranger, Table } from "./dom.js";
import { count, duration, rate, words } from "./format.js";
import { failing, markOf, urgency } from "./health.js";
import { ask } from "./stream.js";

const ORDER_HOLDS = 5000; // ms, so that rows do not run away from the pointer
const SPARK_EVERY = 5000; // ms; a spark's pixel is longer than a second

const ORDERS = {
  attention: { title: "attention first", by: (lane) => urgency(lane), up: true },
  name: { title: "name", by: () => 0, up: true },
  received: { title: "received", by: (lane) => lane.rates.received },
  succeeded: { title: "succeeded", by: (lane) => lane.rates.succeeded },
  failed: { title: "failed", by: (lane) => lane.rates.failed },
  p50: { title: "median time", by: (lane) => lane.latency.p50_seconds ?? -1 },
  p95: { title: "95th percentile", by: (lane) => lane.latency.p95_seconds ?? -1 },
  p99: { title: "99th percentile", by: (lane) => lane.latency.p99_seconds ?? -1 },
  in_flight: { title: "in flight", by: (lane) => lane.in_flight },
  waiting: { title: "waiting retries", by: (lane) => lane.waiting },
  dead: { title: "dead letters", by: (lane) => lane.ledger.dead_lettered },
};

function text(cell, value, kind) {
  say(cell, value);
  cell.classList.toggle("bad", kind === "bad");
}

export class LanesView {
  #order = "attention";
  #reversed = false;
  #sorted = [];
  #sortedAt = -Infinity;
  #visible = new Set();
  #sparks = new WeakMap();

  constructor(store) {
    this.store = store;
    this.filter = byId("lanes-filter");
    this.select = byId("lanes-sort");
    for (const [name, { title }] of Object.entries(ORDERS)) this.select.append(h("option", { value: name }, title));
    this.select.addEventListener("change", () => this.#sortBy(this.select.value, false));
    this.filter.addEventListener("input", () => this.#again());
    this.table = new Table(byId("lanes-scroll"), "Lanes", this.#columns(), { keep: true });
    this.seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) this.#visible.add(target);
        else this.#visible.delete(target);
      }
      this.#drawSparks();
    }, { root: null, rootMargin: "50px" });
    this.#headings();
  }

  #columns() {
    const head = (order, title) => h("button", { type: "button", "data-order": order, onclick: () => this.#sortBy(order, true) }, title);
    const number = (order, title, value, kind) => ({
      title, class: "number", head: head(order, title), fill: (cell, lane) => text(cell, value(lane), kind?.(lane)),
    });
    return [
      { title: "Lane", class: "name", head: head("name", "Lane"), fill: (cell, lane) => this.#name(cell, lane) },
      { title: "State", class: "state", head: head("attention", "State"), fill: (cell, lane) => this.#state(cell, lane) },
      number("received", "Received", ({ rates }) => rate(rates.received)),
      number("succeeded", "Succeeded", ({ rates }) => rate(rates.succeeded)),
      number("failed", "Failed", ({ rates }) => rate(rates.failed), (lane) => (failing(lane) ? "bad" : "")),
      { title: "Throughput, 5 min", class: "spark", fill: (cell, _, row) => this.#spark(cell, row, ["failed", "received"], 1) },
      number("p50", "Median", ({ latency }) => duration(latency.p50_seconds)),
      number("p95", "95th", ({ latency }) => duration(latency.p95_seconds)),
      number("p99", "99th", ({ latency }) => duration(latency.p99_seconds)),
      { title: "95th, 5 min", class: "spark", fill: (cell, _, row) => this.#spark(cell, row, ["p95_seconds"], 0.001) },
      number("in_flight", "In flight", (lane) => `${count(lane.in_flight)} of ${count(lane.prefetch)}`),
      { title: "Running", class: "number", fill: (cell, lane) => say(cell, `${count(lane.running)} of ${count(lane.concurrency)}`) },
      number("waiting", "Waiting", (lane) => count(lane.waiting)),
      number("dead", "Dead letters", (lane) => count(lane.ledger.dead_lettered)),
    ];
  }

  #name(cell, lane) {
    if (cell.firstChild) return;
    cell.append(h("a", { href: `#lane/${encodeURIComponent(lane.name)}`, title: `queue ${lane.queue}` }, stranger(lane.name)));
  }

  #state(cell, lane) {
    const kind = markOf(lane);
    if (cell.dataset.kind !== kind) {
      cell.dataset.kind = kind;
      cell.replaceChildren(mark(kind), h("span"), " ", h("span", { class: "aside" }));
    }
    const [, state, why] = cell.children;
    say(state, failing(lane) && lane.state === "consuming" ? "failing" : words(lane.state));
    say(why, lane.state === "consuming" ? "" : `${duration(this.store.since(lane.since))}${lane.reason ? `: ${lane.reason}` : ""}`);
    why.title = lane.reason ?? "";
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

  /** Histories are asked for only where a row can be seen, and its sparks are old. */
  #drawSparks() {
    if (document.hidden) return;
    const at = performance.now();
    for (const [name, row] of this.table.rows()) {
      const sparks = this.#sparks.get(row);
      if (!sparks || !this.#visible.has(row) || at - sparks.drawn < SPARK_EVERY) continue;
      sparks.drawn = at;
      ask(`lanes/${encodeURIComponent(name)}/history`)
        .then((history) => sparks.all.forEach((spark) => spark.draw(history)))
        .catch(() => {}); // the lost stream says it; the next round asks again
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

  #sort(lanes) {
    const at = performance.now();
    const touched = this.table.element.matches(":hover, :focus-within");
    const known = new Map(this.#sorted.map((name, index) => [name, index]));
    const same = lanes.length === known.size && lanes.every((lane) => known.has(lane.name));
    const forced = this.#sortedAt === -Infinity;
    if (same && !forced && (touched || at - this.#sortedAt < ORDER_HOLDS)) {
      return lanes.sort((a, b) => known.get(a.name) - known.get(b.name));
    }
    const { by, up } = ORDERS[this.#order];
    const sign = (up ? 1 : -1) * (this.#reversed ? -1 : 1);
    const names = new Intl.Collator("en", { numeric: true });
    const turned = this.#order === "name" ? sign : 1;
    lanes.sort((a, b) => sign * (by(a) - by(b)) || turned * names.compare(a.name, b.name));
    this.#sorted = lanes.map((lane) => lane.name);
    this.#sortedAt = at;
    return lanes;
  }

  /** Shows the lanes as they are now. */
  update() {
    const wanted = this.filter.value.trim().toLowerCase();
    const all = [...this.store.lanes.values()];
    const fits = (lane) => `${lane.name} ${lane.queue} ${lane.state}`.toLowerCase().includes(wanted);
    const lanes = this.#sort(all.filter(fits));
    say(byId("lanes-count"), wanted ? `${count(lanes.length)} of ${count(all.length)}` : count(all.length));
    this.table.update(lanes, (lane) => lane.name, () => byId("lanes-title").focus());
    show(byId("lanes-scroll"), lanes.length > 0);
    show(byId("lanes-empty"), lanes.length === 0);
    say(byId("lanes-empty"), `No lane fits “${this.filter.value.trim()}”.`);
    this.#drawSparks();
  }
}
