// The page that searches failures: by time, message, type, cause, class and consumer.

import { to } from "./address.js";
import { h, say, show, Table } from "./dom.js";
import { failureColumns } from "./failures.js";
import { clock, count, visible, words } from "./format.js";
import { ask } from "./stream.js";

const LIMIT = 200; // failures that are shown

const KINDS = ["failed", "unavailable", "timed-out", "panicked", "undecodable", "unroutable-type", "expired"];

/** The fields of the form: the parameters of the API, and how the page calls them. */
const TEXTS = [
  { name: "since", title: "Since", placeholder: "10m or 2026-11-27T09:00Z" },
  { name: "until", title: "Until", placeholder: "now" },
  { name: "id", title: "Message id" },
  { name: "type", title: "Type" },
  { name: "class", title: "Class", placeholder: "http, timeout, …" },
  { name: "cause", title: "Cause" },
];

/** A time that a person has written, for the API: seconds and time zone may be missing. */
function time(text) {
  if (!/^\d{4}-\d\d-\d\d/.test(text)) return text;
  const date = new Date(text.replace(" ", "T"));
  return Number.isNaN(date.getTime()) ? text : date.toISOString();
}

export class FailuresPage {
  #wanted = {};
  #asked = 0;

  constructor(place, store) {
    this.store = store;
    this.consumer = h("select", { name: "consumer" });
    this.kind = h("select", { name: "kind" }, h("option", { value: "" }, "any failure"), ...KINDS.map((kind) => h("option", { value: kind }, words(kind))));
    this.texts = TEXTS.map(({ name, title, placeholder }) => ({
      name, title, input: h("input", { type: "search", name, placeholder, autocomplete: "off", spellcheck: "false" }),
    }));
    this.form = h("form", { class: "search" },
      h("label", {}, "Consumer ", this.consumer),
      h("label", {}, "What ", this.kind),
      ...this.texts.map(({ title, input }) => h("label", {}, `${title} `, input)),
      h("div", { class: "buttons" }, h("button", {}, "Search"), h("a", { href: to("failures") }, "All failures")));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#go();
    });
    this.note = h("p", { class: "note", role: "status" });
    this.scroll = h("div", { class: "scroll tall", role: "group", "aria-label": "The failures found", tabindex: "0" });
    place.classList.add("failures");
    place.append(h("h2", { tabindex: "-1" }, "Failures"), this.form, this.note, this.scroll);
    this.table = new Table(this.scroll, "Failures, newest first", failureColumns(store));
  }

  /** Shows what the argument asks for: the parameters of the API as a query. */
  open(argument) {
    this.#wanted = Object.fromEntries(new URLSearchParams(argument));
    const names = ["", ...this.store.consumers.keys()];
    this.consumer.replaceChildren(...names.map((name) => h("option", { value: name }, name ? visible(name) : "all")));
    this.consumer.value = this.#wanted.consumer ?? "";
    this.kind.value = this.#wanted.kind ?? "";
    for (const { name, input } of this.texts) input.value = this.#wanted[name] ?? "";
    this.#search();
  }

  update() {
    // The list stays as it is while somebody reads it. "Search" asks again.
  }

  /** Makes an address of the form, and searches again if it is the address already. */
  #go() {
    const fields = [["consumer", this.consumer.value], ["kind", this.kind.value], ...this.texts.map(({ name, input }) => [name, input.value.trim()])];
    const wanted = new URLSearchParams(fields.filter(([, value]) => value !== "")).toString();
    const next = to("failures", wanted);
    if (location.hash === next) this.#search();
    else location.hash = next;
  }

  async #search() {
    const asked = ++this.#asked;
    const query = new URLSearchParams({ ...this.#wanted, failures: "true", limit: String(LIMIT) });
    for (const name of ["since", "until"]) if (query.has(name)) query.set(name, time(query.get(name)));
    try {
      const page = await ask(`outcomes?${query}`);
      if (asked === this.#asked) this.#show(page);
    } catch (error) {
      if (asked !== this.#asked) return;
      this.#show({ outcomes: [] });
      say(this.note, `The search failed: ${visible(error.message)}.`);
    }
  }

  #show({ outcomes, has_more: hasMore, failures_since: since, file_error: error }) {
    // Rows are filled once, and the numbers of outcomes begin anew in each process.
    this.table.update(outcomes, ({ at, seq, consumer }) => `${at} ${seq} ${consumer}`);
    show(this.scroll, outcomes.length > 0);
    const found = outcomes.length === 0 ? "No failure found." : `${hasMore ? "The newest " : ""}${count(outcomes.length)} ${outcomes.length === 1 ? "failure" : "failures"}.`;
    const reach = since ? ` The worker has all failures since ${clock(new Date(since))}; the log has those before.` : "";
    say(this.note, found + reach + (error ? ` ${visible(error)}.` : ""));
  }
}
