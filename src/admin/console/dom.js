// The page's elements. All text from the worker enters the document here, and only as text.

import { visible } from "./format.js";

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element. Each property of `attributes` becomes an attribute, unless it is `null` or `false`. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets an element's text, if it differs. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  return element;
}

/** Shows or hides an element. */
export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

/** A text from a message or from the settings, isolated: its direction does not affect the text around it. */
export function stranger(text, attributes = {}) {
  return h("bdi", attributes, visible(text));
}

/** The mark before a state's name. Its shape has the same meaning as its colour. */
export function mark(kind) {
  return h("span", { class: `mark ${kind}`, "aria-hidden": "true" });
}

/** Fills a `<dl>` with pairs of term and text. Its elements are kept from one update to the next. */
export function facts(list, pairs) {
  const wanted = pairs.map(([term]) => term).join("\n");
  if (list.dataset.terms !== wanted) {
    list.dataset.terms = wanted;
    list.replaceChildren(...pairs.map(([term]) => h("div", {}, h("dt", {}, term), h("dd"))));
  }
  pairs.forEach(([, text, kind], index) => {
    const value = list.children[index].lastChild;
    // An equal element stays, and with it the focus.
    if (!(text instanceof Node)) say(value, text);
    else if (!value.firstChild?.isEqualNode(text)) value.replaceChildren(text);
    value.className = kind ?? "";
  });
}

/** Fills a place with groups of facts: `[title, pairs]` for each. The elements are kept as those of `facts`. */
export function groups(place, all) {
  const wanted = all.map(([title]) => title).join("\n");
  if (place.dataset.groups !== wanted) {
    place.dataset.groups = wanted;
    place.replaceChildren(...all.map(([title]) => h("section", { class: "facts" }, h("h3", {}, title), h("dl"))));
  }
  all.forEach(([, pairs], index) => facts(place.children[index].lastChild, pairs));
}

/**
 * A table whose rows are kept by key, so that focus and selection survive an update.
 *
 * The roles are explicit: the narrow layout removes `display: table`, and with it the implied roles.
 * A column is `{ title, class?, fill(cell, item) }`. The first column is the row's header.
 */
export class Table {
  #rows = new Map();
  #spare = new Map();
  #columns;
  #keep;

  /** `keep`: also keep rows that are not shown, for a few items that come and go. */
  constructor(parent, caption, columns, { keep = false } = {}) {
    this.#columns = columns;
    this.#keep = keep;
    this.heads = columns.map((column) =>
      h("th", { scope: "col", role: "columnheader", class: column.class }, column.head ?? column.title));
    this.body = h("tbody", { role: "rowgroup" });
    this.element = h("table", { role: "table" },
      h("caption", { class: "unseen" }, caption),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...this.heads)),
      this.body);
    parent.append(this.element);
  }

  /** Shows these items in this order. Calls `lost` if the focused row is gone. */
  update(items, key, lost) {
    const focused = this.body.contains(document.activeElement);
    const keys = new Set(items.map(key));
    // Remove rows before ordering the others: fewer rows move then, and a moved row loses its focus.
    for (const [name, row] of this.#rows) {
      if (keys.has(name)) continue;
      row.remove();
      this.#rows.delete(name);
      if (this.#keep) this.#spare.set(name, row);
    }
    let next = this.body.firstElementChild;
    for (const item of items) {
      const name = key(item);
      const row = this.#rows.get(name) ?? this.#spare.get(name) ?? this.#row();
      this.#rows.set(name, row);
      if (row === next) next = next.nextElementSibling;
      else this.body.insertBefore(row, next);
      this.#columns.forEach((column, index) => column.fill(row.children[index], item, row));
    }
    if (focused && !this.body.contains(document.activeElement)) lost?.();
  }

  /** Every row and its key. */
  rows() {
    return this.#rows;
  }

  #row() {
    return h("tr", { role: "row" }, ...this.#columns.map((column, index) =>
      index === 0
        ? h("th", { scope: "row", role: "rowheader", class: column.class })
        : h("td", { role: "cell", class: column.class, "data-title": column.title })));
  }
}
