// The page of the settings in force: a table for each section of the configuration.

import { h, say, show, stranger, Table } from "./dom.js";
import { visible } from "./format.js";
import { ask } from "./stream.js";

/** A value as the configuration writes it. Texts of durations and sizes stay as they are. */
function written(value) {
  if (value === null) return "not set";
  if (typeof value === "string") return value === "" ? "(empty)" : visible(value);
  if (Array.isArray(value)) return value.length ? value.map(written).join(", ") : "none";
  return String(value);
}

/** Whether a value is a table of its own, and not empty. */
function isTable(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** The rows of a section: `key` has the names of inner tables before it, as in `retry.base`. */
function rowsOf(table, prefix = "") {
  return Object.entries(table).flatMap(([name, value]) => {
    const key = prefix + name;
    if (!isTable(value)) return [{ key, value: written(value) }];
    return Object.keys(value).length ? rowsOf(value, `${key}.`) : [{ key, value: "none" }];
  });
}

/** The sections of the settings: those of consumers come first, each by itself. */
function sectionsOf({ consumers = {}, ...others }) {
  const bare = Object.entries(others).filter(([, value]) => !isTable(value));
  const tables = Object.entries(others).filter(([, value]) => isTable(value));
  return [
    ...Object.entries(consumers).map(([name, table]) => ({ title: `consumers.${name}`, rows: rowsOf(table) })),
    ...(bare.length ? [{ title: "top level", rows: rowsOf(Object.fromEntries(bare)) }] : []),
    ...tables.map(([title, table]) => ({ title, rows: rowsOf(table) })),
  ];
}

export class SettingsPage {
  #sections = [];

  constructor(place, store) {
    this.store = store;
    this.filter = h("input", { type: "search", autocomplete: "off", spellcheck: "false", placeholder: "section, key or value", oninput: () => this.#choose() });
    this.note = h("p", { class: "note" }, "As the worker started with them, secrets hidden. A concurrency or a pause that was changed since is on the page of the consumer.");
    this.empty = h("p", { class: "empty", hidden: true });
    this.tables = h("div", { class: "settings" });
    place.append(
      h("div", { class: "bar" },
        h("h2", { tabindex: "-1" }, "Settings in force"),
        h("label", {}, "Filter ", this.filter),
        h("a", { href: "api/v1/config" }, "as JSON")),
      this.note, this.empty, this.tables);
  }

  async open() {
    try {
      const settings = await ask("config");
      this.#show(sectionsOf(settings));
    } catch (error) {
      say(this.empty, `The settings cannot be read: ${visible(error.message)}.`);
      show(this.empty, true);
    }
  }

  update() {
    // Settings do not change while the worker runs.
  }

  #show(sections) {
    this.#sections = sections.map(({ title, rows }) => {
      const place = h("section", { "aria-label": title }, h("h3", {}, stranger(`[${title}]`)));
      const table = new Table(place, `Settings of ${title}`, [
        { title: "Key", class: "name", fill: (cell, row) => say(cell, visible(row.key)) },
        { title: "Value", class: "value", fill: (cell, row) => say(cell, row.value) },
      ]);
      return { title, rows, place, table };
    });
    this.tables.replaceChildren(...this.#sections.map(({ place }) => place));
    this.#choose();
  }

  #choose() {
    const wanted = this.filter.value.trim().toLowerCase();
    let found = 0;
    for (const { title, rows, place, table } of this.#sections) {
      const fits = rows.filter(({ key, value }) => `${title}.${key} ${value}`.toLowerCase().includes(wanted));
      table.update(fits, ({ key }) => key);
      show(place, fits.length > 0);
      found += fits.length;
    }
    show(this.empty, found === 0);
    say(this.empty, `No setting matches “${visible(this.filter.value.trim())}”.`);
  }
}
