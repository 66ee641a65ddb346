// The lists of the page for dead letters: by cause, and letter by letter.

import { isSame } from "./dead_select.js";
import { letters } from "./dead_parts.js";
import { causeColumns, letterColumns } from "./dead_tables.js";
import { byId, say, show, Table } from "./dom.js";
import { count } from "./format.js";

export const PAGE = 50;
/** What the lists show without an answer. */
const NONE = { groups: { groups: [], causes: 0, letters: 0, of: null }, page: { letters: [], total: 0, next: null } };

export class Lists {
  constructor({ choose, replay, ticks }) {
    this.ticks = ticks;
    this.groups = new Table(byId("dead-groups"), "Dead letters by cause, most frequent first", causeColumns(choose, replay));
    this.letters = new Table(byId("dead-letters"), "Dead letters", letterColumns(ticks));
  }

  /** `behind`: the number of pages before this one. */
  show({ groups, page, cause, newest, behind, can, consumer }) {
    this.#showGroups(groups ?? NONE.groups, cause, can);
    this.#showLetters(page ?? NONE.page, can, consumer);
    show(byId("dead-all-causes"), cause !== null);
    byId("dead-newest").setAttribute("aria-pressed", String(newest));
    byId("dead-oldest").setAttribute("aria-pressed", String(!newest));
    const { letters: rows, total, next } = page ?? NONE.page;
    const from = behind * PAGE;
    say(byId("dead-where"), rows.length ? `${count(from + 1)}–${count(from + rows.length)} of ${count(total)}` : page ? "none fits" : "");
    possible("dead-previous", behind > 0);
    possible("dead-next", next !== null);
    this.#showActions(total, can);
  }

  #showGroups({ groups, causes, letters: all, of }, cause, can) {
    this.groups.update(groups.map((it) => ({ ...it, all, can, of, chosen: isSame(cause, it) })), ({ group, reason }) => `${group} ${reason}`, () => byId("dead-groups-title").focus());
    say(byId("dead-groups-count"), causes > groups.length ? `${count(groups.length)} of ${count(causes)} causes` : `${count(causes)} ${causes === 1 ? "cause" : "causes"}`);
  }

  #showLetters({ letters: rows, total }, can, consumer) {
    this.ticks.show(rows, can);
    this.letters.update(rows.map((row, index) => ({ ...row, index, consumer, can })), ({ id, failed_at: at, index }) => `${id} ${at} ${index}`, () => byId("dead-letters-title").focus());
    say(byId("dead-letters-count"), count(total));
    show(byId("dead-letters"), rows.length > 0);
  }

  /** The buttons are about the letters that are ticked, or else about all that fit. */
  #showActions(total, can) {
    const ticked = this.ticks.size;
    const number = ticked || total;
    const which = ticked ? `${count(ticked)} ticked` : letters(total);
    for (const id of ["dead-replay", "dead-drop", "dead-export"]) possible(id, can && number > 0);
    say(byId("dead-replay"), number ? `Replay ${which}…` : "Replay…");
    say(byId("dead-drop"), number ? `Drop ${which}…` : "Drop…");
    say(byId("dead-export"), ticked ? `Export ${which}` : "Export");
    show(byId("dead-untick"), ticked > 0);
  }
}

function possible(id, can) {
  byId(id).setAttribute("aria-disabled", String(!can));
}
