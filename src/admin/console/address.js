// The addresses of the pages: the hash of the page's address names what is shown.

/** The names of the pages beside the live view; pages.js fills it. */
export const NAMES = new Set();

/** The address of a page. */
export function to(name, argument = "") {
  return `#/${name}${argument === "" ? "" : `/${encodeURIComponent(argument)}`}`;
}

/** The address of the failures that fit this search. */
export function toFailures(wanted) {
  return to("failures", new URLSearchParams(wanted).toString());
}

/** The address of a consumer's dead letters, or `null` if the console has no page for them. */
export function toDead(consumer) {
  return document.getElementById("dead") ? `#dead/${encodeURIComponent(consumer)}` : null;
}

/** A part of a hash as a text; as it is if it cannot be decoded. */
export function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * What a hash names: `{ page, argument }`. The page is "all", "consumer", or the name of a page; `null` for any
 * other hash, which is a place on the page that is shown.
 */
export function readHash(hash) {
  if (hash === "" || hash === "#all" || hash === "#/") return { page: "all", argument: "" };
  const [, name, argument = ""] = hash.match(/^#\/?([a-z]+)\/(.*)$/) ?? hash.match(/^#\/([a-z]+)$/) ?? [];
  if (name === "consumer" && argument) return { page: name, argument: decode(argument) };
  return hash.startsWith("#/") && NAMES.has(name) ? { page: name, argument: decode(argument) } : null;
}
