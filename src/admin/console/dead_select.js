// Which letters the lists on the page for dead letters show, and how a job is told of them.
//
// A question has a `text`, a time `since`, a `cause` and the `look` whose headers and values count.

import { letters } from "./dead_parts.js";
import { visible } from "./format.js";

/** Whether this is the chosen cause; `null`: none is. */
export function isSame(cause, { group, reason }) {
  return cause !== null && cause.group === group && cause.reason === reason;
}

/** The question of a list, for a URL. Empty parts are left out. */
export function query({ text, since, cause }, more) {
  const all = { text, since, group: cause?.group, reason: cause?.reason, ...more };
  return new URLSearchParams(Object.entries(all).filter(([, value]) => value !== "" && value !== null && value !== undefined)).toString();
}

/** The letters that a list shows, for a job: the answer to this question. */
export function selection({ text, since, cause, look }) {
  const select = {
    ...(cause ? { groups: [cause.group], reasons: [cause.reason] } : {}),
    ...(text ? { text } : {}),
    ...(since ? { since } : {}),
    ...(look ? { look } : {}),
  };
  return Object.keys(select).length ? { select } : { all: true };
}

/** The letters that are ticked, or else all of a page: the selection, in words, how many, and the most replays. */
export function chosen(page, desk, ticks) {
  const ids = ticks.ids();
  if (ids.length) return [{ select: { ids } }, `The ${letters(ids.length)} that you have ticked. A letter with the id of a ticked one counts too.`, ids.length, ticks.replays()];
  return [selection(page.of), inWords(page, desk), page.total, 3];
}

/** The letters of a page, for people. */
function inWords({ of, total }, { look, queue }) {
  const unlisted = look.seen < look.total || look.not_kept ? ", those that the look did not list" : "";
  const seen = `${letters(total)} when last looked${unlisted}, and those that have come since.`;
  if (selection(of).all) return `All letters of ${visible(queue)}: ${seen}`;
  return `The letters of ${visible(queue)} that are chosen on this page: ${seen}`;
}

/** The letter that the page shows. Others may have its id. */
export function only({ summary: { id }, body: { hash } }) {
  return { select: { ids: [id], body_hash: hash }, limit: 1 };
}
