// One consumer: its state, its figures, its charts, its retry queues, and the controls to change it.

import { Chart, CHARTS } from "./charts.js";
import { byId, groups, h, mark, say, show, stranger, Table } from "./dom.js";
import { change as growth, count, duration, NONE, percent, rate, visible } from "./format.js";
import { behind, failingRuns, markOf, stateOf, whyBehind } from "./health.js";
import { toDead } from "./address.js";
import { Poll } from "./stream.js";
import { change } from "./token.js";

export class ConsumerView {
  #name = null;
  #typed = false;
  #busy = false;

  constructor(store, { live, changed }) {
    this.store = store;
    this.changed = changed;
    this.charts = CHARTS.map((kind) => new Chart(byId("charts"), kind));
    const path = (what) => () => `consumers/${encodeURIComponent(this.#name)}/${what}`;
    const due = () => this.#name !== null && live();
    this.history = new Poll({
      period: 1000, due, path: path("history"),
      answer: (history) => this.charts.forEach((chart) => chart.draw(history)),
    });
    this.retryQueues = new Poll({
      period: 2000, due, path: path("retry-queues"),
      answer: (answer) => this.#showRetryQueues(answer),
      failed: (error) => this.#showRetryQueues({ retry_queues: [], dead_letters: null, error: error.message }),
    });
    this.#retryTable();
    this.#controls();
  }

  #retryTable() {
    this.countNote = h("p", { class: "note", hidden: true });
    byId("consumer-facts").after(this.countNote);
    this.retryTable = new Table(byId("retry-queues"), "Messages on each retry queue", [
      { title: "Retry queues", class: "name", fill: (cell, queue) => { say(cell, queue.title); cell.title = visible(queue.queue); } },
      { title: "Messages now", class: "number", fill: (cell, queue) => say(cell, count(queue.messages)) },
      { title: "Share", class: "share", fill: (cell, queue) => {
        if (!cell.firstChild) cell.append(h("div", { class: "share-bar", "aria-hidden": "true" }), h("span", { class: "unseen" }));
        cell.firstChild.style.width = `${queue.most ? (100 * (queue.messages ?? 0)) / queue.most : 0}%`;
        say(cell.lastChild, percent(queue.messages ?? 0, queue.sum));
      } },
    ]);
    this.retryNote = h("p", { class: "note" });
    byId("retry-queues").append(this.retryNote);
  }

  #showRetryQueues({ retry_queues, dead_letters: dead, error }) {
    const depths = [...retry_queues, ...(dead ? [dead] : [])].map((queue) => queue.messages ?? 0);
    const most = Math.max(0, ...depths);
    const sum = depths.reduce((all, depth) => all + depth, 0);
    const rows = retry_queues.map((queue) => ({ ...queue, title: `after ${count(queue.delay_seconds)}\u202fs`, most, sum }));
    if (dead) rows.push({ ...dead, title: "Dead letters", most, sum });
    this.retryTable.update(rows, (queue) => queue.queue);
    const notes = [error ? `Cannot read queue depths from the broker: ${visible(error)}` : "", retry_queues.length ? "" : "This consumer has no retry queues."];
    say(this.retryNote, notes.filter(Boolean).join(" "));
  }

  #controls() {
    byId("consumer-pause").addEventListener("click", ({ detail }) => {
      // Ignore the second click of a double click: it would undo the first.
      if (detail > 1) return;
      const paused = this.store.consumers.get(this.#name)?.state === "paused";
      this.#change("POST", paused ? "resume" : "pause", undefined, () => (paused ? "Resumed." : "Paused. Running handlers finish; the other messages went back to the queue."));
    });
    const value = byId("consumer-concurrency-value");
    value.addEventListener("input", () => { this.#typed = true; });
    byId("consumer-concurrency").addEventListener("submit", (event) => {
      event.preventDefault();
      const concurrency = value.valueAsNumber;
      this.#change("PATCH", "", { concurrency }, () => {
        this.#typed = false;
        return `At most ${count(concurrency)} ${concurrency === 1 ? "handler runs" : "handlers run"} at once from now on.`;
      });
    });
  }

  async #change(method, what, body, done) {
    if (this.#busy) return;
    this.#busy = true;
    const name = this.#name;
    const answer = byId("consumer-answer");
    say(answer, "");
    try {
      const consumer = await change(method, `consumers/${encodeURIComponent(name)}${what ? `/${what}` : ""}`, body);
      this.store.replace(consumer);
      if (name === this.#name) say(answer, done());
      this.changed();
    } catch (error) {
      if (name === this.#name) say(answer, visible(error.message));
    } finally {
      this.#busy = false;
    }
  }

  /** Shows another consumer, or none (`null`). */
  open(name) {
    if (name === this.#name) return;
    this.#name = name;
    this.#typed = false;
    this.charts.forEach((chart) => chart.clear());
    this.retryTable.update([], () => "");
    say(this.retryNote, "");
    say(byId("consumer-answer"), "");
    byId("consumer-title").replaceChildren(name === null ? "" : stranger(name));
  }

  /** Shows the consumer as it is now. */
  update() {
    const consumer = this.store.consumers.get(this.#name);
    show(byId("consumer"), this.#name !== null);
    show(byId("retry-queues"), this.#name !== null);
    if (this.#name === null) return;
    show(byId("consumer-controls"), Boolean(consumer) && this.store.worker.can_change);
    show(byId("consumer-read-only"), !this.store.worker.can_change);
    if (!consumer) {
      byId("consumer-state").replaceChildren("There is no consumer with this name.");
      return;
    }
    this.#showState(consumer);
    this.#showFacts(consumer);
    const paused = consumer.state === "paused";
    say(byId("consumer-pause"), paused ? "Resume" : "Pause");
    const value = byId("consumer-concurrency-value");
    value.max = consumer.prefetch;
    if (!this.#typed && document.activeElement !== value) value.value = consumer.concurrency;
    this.history.tick();
    this.retryQueues.tick();
  }

  #showState(consumer) {
    const place = byId("consumer-state");
    const kind = markOf(consumer);
    if (place.dataset.kind !== kind || !place.children.length) {
      place.dataset.kind = kind;
      place.replaceChildren(mark(kind), h("strong"), " ", h("span", { class: "aside" }));
    }
    const isPaused = consumer.state === "paused";
    const isFailing = consumer.state === "consuming" && consumer.failing;
    const since = `for ${duration(this.store.since(consumer.since))}${isPaused ? ", on purpose" : ""}`;
    say(place.children[1], stateOf(consumer));
    // A consumer consumes for longer than it has been behind or failing.
    say(place.children[2], isFailing ? failingRuns(consumer) : behind(consumer) ? "" : since);
    const reason = isPaused ? "" : consumer.reason ?? "";
    const why = [visible(reason), whyBehind(consumer)].filter(Boolean).join(" ");
    const reasonPlace = byId("consumer-reason");
    show(reasonPlace, why !== "");
    reasonPlace.classList.toggle("calm", reason === "");
    say(reasonPlace, why);
  }

  /** Facts about probes, for a consumer whose service is or was down. */
  #probes({ state, counts, next_probe_at: next }) {
    const isOpen = state === "service-down" || state === "service-unknown";
    if (!isOpen && counts.probes === 0) return [];
    const probes = ["Probes so far", count(counts.probes)];
    if (!isOpen) return [probes];
    const left = next === null ? null : Math.max(0, -this.store.since(next));
    return [probes, ["Next probe", left === null ? "runs, or waits for a message" : `in ${duration(Math.ceil(left))}`]];
  }

  #showFacts(consumer) {
    const { rates, latency, backlog } = consumer;
    const dead = backlog.dead_letters;
    const deadPage = dead ? toDead(consumer.name) : null;
    groups(byId("consumer-facts"), [
      ["In the queue, now", [
        ["Queue", visible(consumer.queue)],
        ["Ready", count(backlog.ready), behind(consumer) ? "late" : ""],
        ["Growth, 2 min", growth(backlog.growth)],
        ["Empty in", backlog.growth > 0 ? "grows" : duration(backlog.drain_seconds)],
        ["Oldest, about", this.#oldest(backlog)],
        ["Dead letters", deadPage ? h("a", { href: deadPage }, count(dead)) : count(dead)],
      ]],
      ["In this worker, now", [
        ["In flight", `${count(consumer.in_flight)} of ${count(consumer.prefetch)}`],
        ["Running", `${count(consumer.running)} of ${count(consumer.concurrency)}`],
        ...(consumer.rate === null ? [] : [["Rate, at most", consumer.rate]]),
        ["Buffered", count(consumer.buffered)],
        ["Backing off", count(consumer.waiting)],
      ]],
      ["Handler runs of the last minute", [
        ["Median", duration(latency.p50_seconds)],
        ["95th percentile", duration(latency.p95_seconds)],
        ["99th percentile", duration(latency.p99_seconds)],
      ]],
      // With a single consumer these are the rates of the worker, which the page shows above.
      ...(this.store.consumers.size === 1 ? [] : [["Over the last 10\u202fs", [
        ["Received", rate(rates.received)],
        ["Succeeded", rate(rates.succeeded)],
        ["Failed", rate(rates.failed), consumer.failing ? "bad" : ""],
      ]]]),
      ...(consumer.routes.length === 0 ? [] : [["Routes, since the start", consumer.routes.map((route) => [
        visible(route.route),
        route.service_down === null ? `${count(route.attempts)}, ${count(route.failed)} failed` : `service down: ${visible(route.service_down)}`,
        route.service_down === null ? "" : "bad",
      ])]]),
      ["Since the start", [
        ["Handler", consumer.handler ?? NONE],
        ["Subscriptions so far", count(consumer.counts.sessions)],
        ...this.#probes(consumer),
      ]],
    ]);
    show(this.countNote, backlog.error !== null);
    say(this.countNote, `Not known: ${visible(backlog.error ?? "")}`);
  }

  /** The age of the oldest message in the queue, and from what it is known. */
  #oldest({ oldest_seconds: age, oldest_from: from }) {
    const source = { timestamp: "from the timestamp of the last delivery", "empty-queue": "the queue was empty then" }[from];
    return source ? h("span", { title: source }, duration(age)) : duration(age);
  }
}
