// The tables of the page for dead letters: causes, and letters.

import { h, say, stranger } from "./dom.js";
import { count, percent, visible, words } from "./format.js";
import { letters, moment, spark } from "./dead_parts.js";
import { idOf, typeOf } from "./messages.js";

/** The columns of the causes. `choose(cause)` is called when a cause is clicked, `replay(cause)` by its button. */
export function causeColumns(choose, replay) {
  return [
    { title: "Cause", class: "name cause", fill: (cell, it, row) => cause(cell, it, row, choose) },
    { title: "Letters", class: "number", fill: (cell, { count: n }) => say(cell, count(n)) },
    { title: "Share", class: "number", fill: (cell, { count: n, all }) => say(cell, percent(n, all)) },
    { title: "First", class: "time", fill: (cell, { first }) => cell.replaceChildren(moment(first)) },
    { title: "Last", class: "time", fill: (cell, { last }) => cell.replaceChildren(moment(last)) },
    { title: "When", class: "when", fill: when },
    { title: "Change", class: "action", fill: (cell, it, row) => action(cell, it, row, replay) },
  ];
}

function action(cell, it, row, replay) {
  row.cause = it;
  if (!cell.firstChild) cell.append(h("button", { type: "button", class: "small", onclick: () => replay(row.cause) }, "Replay…"));
  const name = `Replay the ${letters(it.count)} of ${visible(it.group.slice(0, 8))}`;
  if (cell.firstChild.getAttribute("aria-label") !== name) cell.firstChild.setAttribute("aria-label", name);
  cell.firstChild.setAttribute("aria-disabled", String(!it.can));
}

function cause(cell, it, row, choose) {
  if (!cell.firstChild) {
    const button = h("button", { type: "button", class: "cause", onclick: () => choose(row.cause) }, h("span"));
    cell.append(button, h("div", { class: "aside" }, h("span"), h("span", { class: "code" })));
  }
  const [button, about] = cell.children;
  button.setAttribute("aria-pressed", String(it.chosen));
  row.classList.toggle("chosen", it.chosen);
  const error = visible(it.kind ? `${it.kind}: ${it.error}` : it.error);
  say(button.firstChild, error);
  button.title = error;
  say(about.firstChild, `${words(visible(it.reason))}${it.source_queue ? ` from ${visible(it.source_queue)}` : ""} `);
  say(about.lastChild, visible(it.group.slice(0, 8)));
}

function when(cell, it) {
  const known = JSON.stringify(it.bars);
  if (cell.dataset.known === known) return;
  cell.dataset.known = known;
  const label = `${letters(it.count)} from ${it.first ?? "an unknown time"} to ${it.last ?? "an unknown time"}`;
  cell.replaceChildren(spark(it.bars, label));
}

/** The columns of the letters. */
export function letterColumns(ticks) {
  const once = (fill) => (cell, item) => { if (!cell.firstChild) cell.append(...fill(item)); };
  return [
    { title: "Dead-lettered", class: "name time", head: h("label", {}, ticks.all, " Dead-lettered"), fill: (cell, item) => {
      ticks.fill(cell, item);
      if (!cell.querySelector("time, span")) cell.append(moment(item.failed_at));
    } },
    { title: "Message", class: "message", fill: once(({ consumer, id, type }) => [
      idOf(id, `#dead/${encodeURIComponent(consumer)}/${encodeURIComponent(id)}`),
      h("div", { class: "aside" }, typeOf(type) ?? ""),
    ]) },
    { title: "Reason", class: "kind", fill: once(({ reason, attempts, replays }) => [
      words(visible(reason)),
      h("div", { class: "aside" }, `${count(attempts)} ${attempts === 1 ? "attempt" : "attempts"}${replays ? `, replay ${count(replays)}` : ""}`),
    ]) },
    { title: "Error", class: "why", fill: once(({ kind, error }) => [stranger(kind ? `${kind}: ${error}` : error, { class: "error cut", dir: "auto" })]) },
  ];
}
