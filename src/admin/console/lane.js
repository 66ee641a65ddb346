// One lane: what it does, its charts, its ladder, and what can be changed.

import { Chart, CHARTS } from "./charts.js";
import { byId, facts, h, mark, say, show, stranger, Table } from "./dom.js";
import { count, duration, NONE, percent, rate, visible, words } from "./format.js";
import { failing, markOf } from "./health.js";
import { Poll } from "./stream.js";
import { change } from "./token.js";

export class LaneView {
  #name = null;
  #typed = false;
  #busy = false;

  constructor(store, { live, changed }) {
    this.store = store;
    this.changed = changed;
    this.charts = CHARTS.map((kind) => new Chart(byId("charts"), kind));
    const path = (what) => () => `lanes/${encodeURIComponent(this.#name)}/${what}`;
    const due = () => this.#name !== null && live();
    this.history = new Poll({
      period: 1000, due, path: path("history"),
      answer: (history) => this.charts.forEach((chart) => chart.draw(history)),
    });
    this.ladder = new Poll({
      period: 2000, due, path: path("ladder"),
      answer: (ladder) => this.#showLadder(ladder),
      failed: (error) => this.#showLadder({ rungs: [], dead_letters: null, error: error.message }),
    });
    this.#ladderTable();
    this.#controls();
  }

  #ladderTable() {
    this.ladderTable = new Table(byId("ladder"), "Messages on each rung of the retry ladder", [
      { title: "Retry ladder", class: "name", fill: (cell, rung) => { say(cell, rung.title); cell.title = visible(rung.queue); } },
      { title: "Messages", class: "number", fill: (cell, rung) => say(cell, count(rung.messages)) },
      { title: "Share", class: "share", fill: (cell, rung) => {
        if (!cell.firstChild) cell.append(h("div", { class: "share-bar", "aria-hidden": "true" }), h("span", { class: "unseen" }));
        cell.firstChild.style.width = `${rung.most ? (100 * (rung.messages ?? 0)) / rung.most : 0}%`;
        say(cell.lastChild, percent(rung.messages ?? 0, rung.sum));
      } },
    ]);
    this.ladderNote = h("p", { class: "note" });
    byId("ladder").append(this.ladderNote);
  }

  #showLadder({ rungs, dead_letters: dead, error }) {
    const depths = [...rungs, ...(dead ? [dead] : [])].map((rung) => rung.messages ?? 0);
    const most = Math.max(0, ...depths);
    const sum = depths.reduce((all, depth) => all + depth, 0);
    const rows = rungs.map((rung) => ({ ...rung, title: `after ${count(rung.delay_seconds)}\u202fs`, most, sum }));
    if (dead) rows.push({ ...dead, title: "Dead letters", most, sum });
    this.ladderTable.update(rows, (rung) => rung.queue);
    const notes = [error ? `The broker could not be asked: ${visible(error)}` : "", rungs.length ? "" : "No rungs: nothing is parked at the broker."];
    say(this.ladderNote, notes.filter(Boolean).join(" "));
  }

  #controls() {
    byId("lane-pause").addEventListener("click", ({ detail }) => {
      // The second click of a double click would undo the first.
      if (detail > 1) return;
      const paused = this.store.lanes.get(this.#name)?.state === "paused";
      this.#change("POST", paused ? "resume" : "pause", undefined, () => (paused ? "Resumed." : "Paused: running handlers finish, the rest went back to the queue."));
    });
    const value = byId("lane-concurrency-value");
    value.addEventListener("input", () => { this.#typed = true; });
    byId("lane-concurrency").addEventListener("submit", (event) => {
      event.preventDefault();
      const concurrency = value.valueAsNumber;
      this.#change("PATCH", "", { concurrency }, () => {
        this.#typed = false;
        return `At most ${count(concurrency)} ${concurrency === 1 ? "handler runs" : "handlers run"} at once now.`;
      });
    });
  }

  async #change(method, what, body, done) {
    if (this.#busy) return;
    this.#busy = true;
    const name = this.#name;
    const answer = byId("lane-answer");
    say(answer, "");
    try {
      const lane = await change(method, `lanes/${encodeURIComponent(name)}${what ? `/${what}` : ""}`, body);
      this.store.replace(lane);
      if (name === this.#name) say(answer, done());
      this.changed();
    } catch (error) {
      if (name === this.#name) say(answer, visible(error.message));
    } finally {
      this.#busy = false;
    }
  }

  /** Turns to another lane, or to none (`null`). */
  open(name) {
    if (name === this.#name) return;
    this.#name = name;
    this.#typed = false;
    this.charts.forEach((chart) => chart.clear());
    this.ladderTable.update([], () => "");
    say(this.ladderNote, "");
    say(byId("lane-answer"), "");
    byId("lane-title").replaceChildren(name === null ? "" : stranger(name));
  }

  /** Shows the lane as it is now. */
  update() {
    const lane = this.store.lanes.get(this.#name);
    show(byId("lane"), this.#name !== null);
    show(byId("ladder"), this.#name !== null);
    if (this.#name === null) return;
    show(byId("lane-controls"), Boolean(lane) && this.store.worker.can_change);
    show(byId("lane-read-only"), !this.store.worker.can_change);
    if (!lane) {
      byId("lane-state").replaceChildren("There is no lane of this name.");
      return;
    }
    this.#showState(lane);
    this.#showFacts(lane);
    const paused = lane.state === "paused";
    say(byId("lane-pause"), paused ? "Resume" : "Pause");
    const value = byId("lane-concurrency-value");
    value.max = lane.prefetch;
    if (!this.#typed && document.activeElement !== value) value.value = lane.concurrency;
    this.history.tick();
    this.ladder.tick();
  }

  #showState(lane) {
    const place = byId("lane-state");
    const kind = markOf(lane);
    if (place.dataset.kind !== kind || !place.children.length) {
      place.dataset.kind = kind;
      place.replaceChildren(mark(kind), h("strong"), " ", h("span", { class: "aside" }));
    }
    say(place.children[1], words(lane.state));
    say(place.children[2], `for ${duration(this.store.since(lane.since))}${failing(lane) ? "; most of its runs fail" : ""}`);
    show(byId("lane-reason"), Boolean(lane.reason));
    say(byId("lane-reason"), visible(lane.reason ?? ""));
  }

  #showFacts(lane) {
    const { rates, latency } = lane;
    // The rates of an only lane are the worker's, which stand above.
    const own = this.store.lanes.size === 1 ? [] : [
      ["Received", rate(rates.received)],
      ["Succeeded", rate(rates.succeeded)],
      ["Failed", rate(rates.failed), failing(lane) ? "bad" : ""],
    ];
    facts(byId("lane-facts"), [
      ...own,
      ["Median, 1 min", duration(latency.p50_seconds)],
      ["95th percentile", duration(latency.p95_seconds)],
      ["99th percentile", duration(latency.p99_seconds)],
      ["In flight", `${count(lane.in_flight)} of ${count(lane.prefetch)}`],
      ["Running", `${count(lane.running)} of ${count(lane.concurrency)}`],
      ["Not started", count(lane.buffered)],
      ["Waiting to retry", count(lane.waiting)],
      ["Queue", visible(lane.queue)],
      ["Handler", lane.handler ?? NONE],
      ["Subscriptions made", count(lane.counts.sessions)],
    ]);
  }
}
