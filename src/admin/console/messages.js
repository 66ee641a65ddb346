// Parts of cells about messages: ids, types, links to traces.

import { to } from "./address.js";
import { h, stranger } from "./dom.js";
import { visible } from "./format.js";

/** A link to a trace, if the worker has a URL for traces; else the trace's id; else nothing. */
export function trace(id, template) {
  if (!id) return null;
  if (!/^[0-9a-f]{32}$/.test(id)) return stranger(id, { class: "code" });
  const short = `trace ${id.slice(0, 8)}`;
  const url = template?.replace("{trace_id}", id);
  // Link only to web pages. The template is configuration, but could still be a `javascript:` URL.
  if (!url || !/^https?:\/\//i.test(url)) return h("span", { class: "code", title: id }, short);
  return h("a", { href: url, target: "_blank", rel: "noreferrer noopener", title: id }, short);
}

/** A message's type, if it has one. */
export function typeOf(type) {
  return type ? stranger(type, { class: "clip", title: visible(type) }) : null;
}

/** A message's id as a link, by default to the message's page, or "no id". */
export function idOf(id, href = to("message", id ?? "")) {
  if (!id) return h("span", { class: "aside" }, "no id");
  return h("a", { href, class: "code", title: visible(id) }, stranger(id));
}
