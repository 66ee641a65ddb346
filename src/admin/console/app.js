// Lapwing's console: connects the stream of events and the page's address to the views.

import { readHash, to } from "./address.js";
import { byId, groups, h, mark, say, show, stranger, Table } from "./dom.js";
import { change, clock, count, duration, percent, rate, visible, words } from "./format.js";
import { DeadView } from "./dead.js";
import { FailuresView } from "./failures.js";
import { behind, failingRuns, markOf, verdict } from "./health.js";
import { InFlightView } from "./in_flight.js";
import { ConsumerView } from "./consumer.js";
import { ConsumersView } from "./consumers.js";
import { Pages } from "./pages.js";
import { ENDS, RUNS, Store } from "./store.js";
import { Stream } from "./stream.js";
import { setUpToken } from "./token.js";

const REASONS = 5; // consumers named below the verdict

const store = new Store();
let scope; // the consumer that is shown, or null for all; undefined before the first state
let wanted = null; // the consumer that the address names, or null
let address = { page: "all", argument: "" }; // what the address names
let opened = null; // the page that is shown instead of the live view, with its argument

const live = () => stream.live && !document.hidden;
const consumers = new ConsumersView(store, { changed: () => render() });
const consumer = new ConsumerView(store, { live, changed: () => render() });
const failures = new FailuresView(store);
const inFlight = new InFlightView(store, live);
const dead = new DeadView(store, live);
const pages = new Pages(byId("main"), store);
const outcomes = [
  { title: "Handler runs", part: "counts", kinds: RUNS, whole: "attempts" },
  { title: "Deliveries", part: "ledger", kinds: ENDS, whole: "received" },
].map(outcomesTable);

function outcomesTable({ title, part, kinds, whole }) {
  const recent = h("span");
  const columns = [
    { title, class: "name", fill: (cell, { name }) => say(cell, name) },
    { title: "Last minute", class: "number", head: recent, fill: (cell, row) => say(cell, count(row.recent)) },
    { title: "Since the start", class: "number", fill: (cell, row) => say(cell, count(row.total)) },
    { title: "Share", class: "number", fill: (cell, row) => say(cell, percent(row.total, row.all)) },
  ];
  const place = h("div");
  byId("retry-queues").before(place);
  const table = new Table(place, `${title} by outcome`, columns);
  return () => {
    const seconds = store.window();
    say(recent, seconds >= 60 ? "Last minute" : `Last ${seconds} s`);
    const all = store.tally(scope, part, whole).total;
    const rows = kinds.map(([key, name]) => ({ key, name, all, ...store.tally(scope, part, key) }));
    // A stuck handler is rare: its row is shown only after one was counted.
    table.update(rows.filter(({ key, total }) => key !== "handler_stuck" || total > 0), ({ key }) => key);
  };
}

function whyOf(consumer) {
  const { state, since, reason, rates, backlog } = consumer;
  if (behind(consumer) && !consumer.failing) return `${count(backlog.ready)} wait, ${change(backlog.growth)}`;
  if (state === "consuming" && consumer.failing) return failingRuns(consumer);
  if (state === "paused") return `paused for ${duration(store.since(since))}`;
  if (state === "consuming") return `${rate(rates.failed)} failed, ${rate(rates.succeeded)} succeeded`;
  return `${words(state)} for ${duration(store.since(since))}${reason ? `: ${visible(reason)}` : ""}`;
}

function showHealth() {
  const { worker } = store;
  const all = [...store.consumers.values()];
  const { level, word, text, consumers: reasons } = verdict(worker, all);
  byId("health").dataset.level = stream.live ? level : "gone";
  say(byId("verdict-word"), stream.live ? word : "Gone");
  say(byId("verdict-text"), stream.live ? visible(text) : `Last known state: ${word}. ${visible(text)}`);
  document.title = `${stream.live ? word : "Gone"}: ${visible(worker.name)}`;
  const list = byId("verdict-details");
  show(list, reasons.length > 0 && all.length > 1);
  const items = reasons.slice(0, REASONS).map((reason) => [reason, whyOf(reason)]);
  const known = items.map(([reason]) => `${reason.name} ${markOf(reason)}`).join("\n") + reasons.length;
  if (list.dataset.known !== known) {
    list.dataset.known = known;
    list.replaceChildren(...items.map(([reason]) =>
      h("li", {}, mark(markOf(reason)), h("a", { href: `#consumer/${encodeURIComponent(reason.name)}` }, stranger(reason.name)), " ", h("span"))));
    if (reasons.length > REASONS) list.append(h("li", { class: "aside" }, `and ${count(reasons.length - REASONS)} more at the top of the table below`));
  }
  items.forEach(([, why], index) => say(list.children[index].lastChild, why));
}

function showFigures() {
  const { worker } = store;
  const sum = (pick) => [...store.consumers.values()].reduce((all, each) => all + pick(each), 0);
  // Consumers that share a queue count it together. A queue that cannot be counted leaves the sum unknown.
  const counts = (queue, number) => new Map([...store.consumers.values()].map((each) => [each[queue], each.backlog[number]]));
  const known = (queue, number) => [...counts(queue, number).values()].reduce((all, one) => (all === null || one === null ? null : all + one), 0);
  groups(byId("figures"), [
    ["Now", [
      ["Ready in queues", count(known("queue", "ready"))],
      ["In flight", count(worker.in_flight)],
      ["Running", count(sum(({ running }) => running))],
      ["Backing off", count(sum(({ waiting }) => waiting))],
      ["Dead letters", count(known("dead_letter_queue", "dead_letters"))],
    ]],
    ["Over the last 10\u202fs", [
      ["Received", rate(sum(({ rates }) => rates.received))],
      ["Succeeded", rate(sum(({ rates }) => rates.succeeded))],
      ["Failed", rate(sum(({ rates }) => rates.failed))],
    ]],
    ["Since the start", [
      ["Retries parked", count(worker.totals.parked)],
      ["Dead-lettered", count(worker.totals.dead_lettered)],
    ]],
    ["Retries and dead letters", [
      ["Publishing", worker.publishing === null ? "works" : "not possible", worker.publishing === null ? "" : "bad"],
    ]],
  ]);
  say(byId("worker-name"), visible(worker.name));
  say(byId("worker-about"), `${worker.version}, up ${duration(store.since(worker.started_at))}`);
}

function render() {
  if (!store.worker) return;
  route();
  showHealth();
  showFigures();
  openPage();
  dead.update();
  if (opened !== null) return pages.update();
  show(byId("consumers"), scope === null);
  if (scope === null) consumers.update();
  consumer.update();
  failures.update();
  inFlight.update();
  for (const update of outcomes) update();
}

let asked = false;
function renderSoon() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    render();
  });
}

/** Shows the consumer that the address names. A worker with one consumer shows that one. */
function route() {
  const only = store.consumers.size === 1 ? store.consumers.keys().next().value : null;
  const next = wanted ?? only;
  show(document.querySelector(".back"), only === null);
  byId("nav-dead").href = next === null ? "#dead" : `#dead/${encodeURIComponent(next)}`;
  if (next === scope) return;
  const first = scope === undefined;
  scope = next;
  consumer.open(scope);
  failures.open(scope);
  inFlight.open(scope);
  if (first) return;
  window.scrollTo(0, 0);
  show(byId("consumer"), scope !== null);
  show(byId("consumers"), scope === null);
  byId(scope === null ? "consumers-title" : "consumer-title").focus({ preventScroll: true });
}

/** Shows the page that the address names, or the live view. */
function openPage() {
  const { page, argument } = address;
  const isPage = page !== "all" && page !== "consumer";
  const next = isPage ? `${page}/${argument}` : null;
  if (next === opened) return;
  opened = next;
  pages.show(isPage ? page : null, argument);
  for (const part of [byId("live"), byId("figures"), byId("legend")]) show(part, !isPage);
  if (!isPage) byId(scope === null ? "consumers-title" : "consumer-title").focus({ preventScroll: true });
}

/** A hash that names no page is a place on the page that is shown. */
function readAddress() {
  if (dead.follow(location.hash)) return;
  const next = readHash(location.hash);
  if (next !== null) {
    address = next;
    if (next.page === "consumer") wanted = next.argument;
    if (next.page === "all") wanted = null;
  }
  render();
}

/** Links to sections also move the focus. They do not change the address, which names the consumer. */
function goTo(event) {
  event.preventDefault();
  const section = event.currentTarget.dataset.goto;
  if (opened !== null || dead.isOpen()) {
    location.hash = wanted === null ? "#all" : `#consumer/${encodeURIComponent(wanted)}`;
    readAddress();
  }
  const heading = byId(section === "consumers" && scope !== null ? "consumer-title" : `${section}-title`);
  heading.scrollIntoView();
  heading.focus({ preventScroll: true });
}

/** Without contact the last numbers stay, greyed, with their time. */
function showContact() {
  const lost = !stream.live;
  document.body.classList.toggle("lost", lost);
  show(byId("gone"), lost && stream.asOf !== null);
  if (!lost || stream.asOf === null) {
    say(byId("gone-text"), "");
    if (lost) say(byId("verdict-text"), "The worker does not answer. The page keeps trying to reconnect.");
    return;
  }
  const before = store.worker.draining
    ? "Gone: the worker was draining and has most likely exited."
    : "Gone: no contact with the worker.";
  say(byId("gone-text"), `${before} Everything below is as of ${clock(stream.asOf)}.`);
  say(byId("gone-age"), `${duration((Date.now() - stream.asOf) / 1000)} ago. The page keeps trying to reconnect.`);
  showHealth();
}

const stream = new Stream({
  state(state) {
    if (store.take(state)) {
      failures.open(scope);
      inFlight.open(scope);
      dead.restarted();
    }
    if (document.hidden) showHealth();
    renderSoon();
  },
  outcomes(list) {
    store.takeOutcomes(list);
    renderSoon();
  },
  found() {
    showContact();
    if (scope !== undefined) failures.open(scope);
  },
  lost: () => showContact(),
});

byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = byId("find-id").value.trim();
  if (id) location.hash = to("message", id);
});
setUpToken();
setInterval(() => { if (!stream.live) showContact(); }, 1000);
window.addEventListener("hashchange", readAddress);
document.addEventListener("visibilitychange", () => renderSoon());
for (const link of document.querySelectorAll("[data-goto]")) link.addEventListener("click", goTo);
readAddress();
