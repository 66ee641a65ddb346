// Which letters the lists on the page for dead letters show, and how a job is told of them.
//
// A question has a `text`, a time `since`, a `cause` and the `look` whose headers and values count.

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

/** The letters with these ids. */
export function those(ids) {
  return { select: { ids } };
}

/** The letter that the page shows. Others may have its id. */
export function only({ summary: { id }, body: { hash } }) {
  return { select: { ids: [id], body_hash: hash }, limit: 1 };
}
