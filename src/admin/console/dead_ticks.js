// The letters that the user has ticked, by their ids.

import { h } from "./dom.js";
import { visible } from "./format.js";

const MOST = 200; // a request names each id

export class Ticks {
  #ticked = new Map(); // id → how often the letter was replayed
  #page = [];

  /** `changed()` is called when the user ticks; `full(most)` when no further letter can be ticked. */
  constructor({ changed, full }) {
    this.changed = changed;
    this.full = full;
    this.all = h("input", { type: "checkbox", class: "tick", "aria-label": "Tick all letters of this page", onchange: () => this.#tickPage(this.all.checked) });
  }

  get size() {
    return this.#ticked.size;
  }

  ids() {
    return [...this.#ticked.keys()];
  }

  /** The most replays of a ticked letter. */
  replays() {
    return Math.max(0, ...this.#ticked.values());
  }

  clear() {
    this.#ticked.clear();
  }

  /** The page has these letters now. `can`: the user may change letters. */
  show(letters, can) {
    this.#page = letters;
    const ticked = letters.filter(({ id }) => this.#ticked.has(id)).length;
    this.all.checked = ticked > 0 && ticked === letters.length;
    this.all.indeterminate = ticked > 0 && ticked < letters.length;
    this.all.disabled = !can || letters.length === 0;
  }

  /** The box of a letter, in its cell. */
  fill(cell, { id, replays, can }) {
    const box = cell.firstChild ?? h("input", { type: "checkbox", class: "tick", "aria-label": `Tick ${visible(id)}`, onchange: () => this.#tick([{ id, replays }], box.checked) });
    if (!cell.firstChild) cell.append(box, " ");
    box.checked = this.#ticked.has(id);
    box.disabled = !can;
  }

  #tickPage(on) {
    this.#tick(this.#page, on);
  }

  #tick(letters, on) {
    for (const { id, replays } of letters) {
      if (!on) this.#ticked.delete(id);
      else if (this.#ticked.size < MOST) this.#ticked.set(id, replays);
      else if (!this.#ticked.has(id)) this.full(MOST);
    }
    this.changed();
  }
}
