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

/** Whether there is a page of this name. */
export function hasPage(name) {
  return NAMES.has(name);
}

function decode(text) {
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
  return hash.startsWith("#/") && hasPage(name) ? { page: name, argument: decode(argument) } : null;
}
