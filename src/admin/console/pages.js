// The pages beside the live view. The hash of the address names one of them: `#/settings`, `#/message/ID`.
//
// A page is one entry of PAGES: a class with
// - `constructor(place, store)`: `place` is an empty `<section>` of its own, `store` has the last state;
// - `open(argument)`: the address names the page; `argument` is the decoded text after the page's name, or "";
//   it also comes when only the argument has changed;
// - `update()`: a state has come from the worker, and the page is shown;
// - `close()`, if it has one: another page is shown.
// The section has the id `page-NAME`. Its first `<h2>` gets the focus when the page is opened.

import { NAMES } from "./address.js";
import { h, show } from "./dom.js";
import { FailuresPage } from "./search.js";
import { MessagePage } from "./message.js";
import { SettingsPage } from "./settings.js";

const PAGES = {
  failures: FailuresPage,
  message: MessagePage,
  settings: SettingsPage,
};

for (const name of Object.keys(PAGES)) NAMES.add(name);

/** Shows the pages, one at a time. Each is made when it is opened first. */
export class Pages {
  #made = new Map();
  #shown = null;

  constructor(main, store) {
    this.main = main;
    this.store = store;
  }

  /** The name of the page that is shown, or `null`. */
  get shown() {
    return this.#shown;
  }

  /** Shows this page, or none (`null`). */
  show(name, argument = "") {
    if (this.#shown !== null && this.#shown !== name) {
      const { place, page } = this.#made.get(this.#shown);
      show(place, false);
      page.close?.();
    }
    const isNew = this.#shown !== name;
    this.#shown = name;
    if (name === null) return;
    const { place, page } = this.#made.get(name) ?? this.#make(name);
    show(place, true);
    page.open(argument);
    if (!isNew) return;
    window.scrollTo(0, 0);
    place.querySelector("h2")?.focus({ preventScroll: true });
  }

  /** Tells the page that is shown about a new state. */
  update() {
    if (this.#shown !== null) this.#made.get(this.#shown).page.update();
  }

  #make(name) {
    const place = h("section", { id: `page-${name}`, class: "page" });
    this.main.append(place);
    const made = { place, page: new PAGES[name](place, this.store) };
    this.#made.set(name, made);
    return made;
  }
}
