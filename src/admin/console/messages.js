// What cells about messages have in common: ids, types, trace links.

import { h, stranger } from "./dom.js";
import { visible } from "./format.js";

/** A link to a trace, where the worker knows a place for it; else its id; else nothing. */
export function trace(id, template) {
  if (!id) return null;
  if (!/^[0-9a-f]{32}$/.test(id)) return stranger(id, { class: "code" });
  const short = `trace ${id.slice(0, 8)}`;
  const url = template?.replace("{trace_id}", id);
  // Only what leads to a web page: the template is configuration, yet a link is a link.
  if (!url || !/^https?:\/\//i.test(url)) return h("span", { class: "code", title: id }, short);
  return h("a", { href: url, target: "_blank", rel: "noreferrer noopener", title: id }, short);
}

/** A message's type, where it has one. */
export function typeOf(type) {
  return type ? stranger(type, { class: "clip", title: visible(type) }) : null;
}

/** An id in code letters, or that there is none. */
export function idOf(id) {
  return id ? stranger(id, { class: "code", title: visible(id) }) : h("span", { class: "aside" }, "no id");
}
