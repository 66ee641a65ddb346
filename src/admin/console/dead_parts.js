// Parts of the page for dead letters: sparklines, time lines, bodies.

import { h, stranger } from "./dom.js";
import { clock, count, duration, visible } from "./format.js";
import { trace } from "./messages.js";

/** The deepest JSON that is indented. */
const DEEPEST = 100;
/** The longest text of indented JSON. */
const LONGEST = 2_000_000;
const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Bars over time. Each row has its own scale: it shows when, and the count beside it shows how many. */
export function spark(bars, label) {
  const most = Math.max(1, ...bars);
  const [width, height] = [3, 22];
  const parts = bars.map((n, index) => {
    const high = n ? Math.max(1.5, (n / most) * height) : 0;
    return svg("rect", { x: index * (width + 1), y: height - high, width, height: high });
  });
  const ground = svg("line", { x1: 0, x2: bars.length * (width + 1), y1: height + 0.5, y2: height + 0.5 });
  return svg("svg", {
    class: "dead-spark", viewBox: `0 0 ${bars.length * (width + 1)} ${height + 1}`, role: "img", "aria-label": label,
    preserveAspectRatio: "none",
  }, ...parts, ground);
}

/** A moment, as an element. */
export function moment(text) {
  if (!text) return h("span", { class: "aside" }, "not known");
  return h("time", { datetime: text, title: text }, clock(new Date(text)));
}

/** The life of a letter: first seen, each attempt that is known, dead-lettered. */
export function story({ summary, history }, template) {
  let before = null;
  const steps = [];
  if (summary.first_seen) steps.push({ at: summary.first_seen, kind: "seen", text: "A worker received the message." });
  const missing = summary.attempts - history.length;
  if (missing > 0 && history.length) {
    steps.push({ at: null, kind: "seen", text: `${count(missing)} earlier ${missing === 1 ? "attempt is" : "attempts are"} only counted.` });
  }
  for (const past of history) steps.push({ at: past.at, kind: "attempt", past });
  const by = { lapwing: "A worker", broker: "The broker" }[summary.origin] ?? "Somebody";
  steps.push({ at: summary.failed_at, kind: "dead", text: `${by} dead-lettered the message: ${visible(summary.reason)}.` });
  const later = (at) => {
    const passed = before && at ? `${duration(Math.max(0, (Date.parse(at) - before) / 1000))} later` : "";
    before = at ? Date.parse(at) : before;
    return passed;
  };
  return h("ol", { class: "dead-story" }, ...steps.map(({ at, kind, text, past }) =>
    h("li", { class: kind },
      h("div", { class: "when" }, at ? moment(at) : "", " ", h("span", { class: "aside" }, later(at))),
      past ? attempt(past, template) : h("p", {}, text))));
}

function attempt(past, template) {
  return h("div", {},
    h("p", {}, h("strong", {}, `Attempt ${past.attempt}`), " ", h("span", { class: "aside" }, "on ", stranger(past.worker)), " ", trace(past.trace, template) ?? ""),
    h("p", { class: "error" }, stranger(`${past.kind}: ${past.error}`, { dir: "auto" })));
}

/** The body for people: what it is, and its text. JSON is indented, bytes are in hexadecimal. */
export function readable({ text, base64, bytes, cut }) {
  const size = `${count(bytes)} bytes${cut ? ", only the beginning is shown" : ""}`;
  if (text === null) {
    const raw = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    return { title: `Body: ${size}`, text: hex(raw) };
  }
  try {
    const shown = cut ? null : indented(text);
    if (shown !== null) return { title: `Body: ${size}, JSON`, text: shown };
  } catch {
    // The body is text.
  }
  return { title: `Body: ${size}, text`, text: lines(text) };
}

/**
 * JSON with one value in a line. Parsing would change long numbers, so only the white space changes. `null` for
 * JSON that is too deep or too long: a short body of brackets alone would become hundreds of megabytes.
 */
function indented(text) {
  JSON.parse(text);
  let [out, depth, quoted] = ["", 0, false];
  const line = () => `\n${"  ".repeat(depth)}`;
  for (let at = 0; at < text.length; at += 1) {
    if (depth > DEEPEST || out.length > LONGEST) return null;
    const letter = text[at];
    if (quoted) {
      out += letter;
      if (letter === "\\") out += text[(at += 1)];
      else if (letter === '"') quoted = false;
    } else if (/\s/.test(letter)) continue;
    else if (letter === '"') {
      quoted = true;
      out += letter;
    } else if (letter === "{" || letter === "[") {
      const empty = /^\s*[}\]]/.exec(text.slice(at + 1, at + 200));
      if (empty) {
        out += letter + empty[0].trim();
        at += empty[0].length;
      } else {
        depth += 1;
        out += letter + line();
      }
    } else if (letter === "}" || letter === "]") {
      depth -= 1;
      out += line() + letter;
    } else if (letter === ",") out += letter + line();
    else if (letter === ":") out += ": ";
    else out += letter;
  }
  return lines(out);
}

/** A text whose invisible characters are spelled out, line by line. */
function lines(text) {
  return text.split(/\r?\n/).map(visible).join("\n");
}

function hex(bytes) {
  const rows = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = [...bytes.slice(at, at + 16)];
    const codes = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const seen = row.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    rows.push(`${at.toString(16).padStart(6, "0")}  ${codes.padEnd(47)}  ${seen}`);
  }
  return rows.join("\n");
}

/** 1 letter, 41 letters. */
export function letters(n) {
  return `${count(n)} ${n === 1 ? "letter" : "letters"}`;
}

/** What a look costs, and what the last one has not seen. */
export function cost(look, can) {
  if (!can) return "Read only: the worker has no admin.token configured. Looking needs it too, because a look takes the letters from the broker and shows their bodies.";
  if (!look) return "A look takes the letters from the broker, reads them and returns them to their places. On RabbitMQ before 4.3 it costs each letter one of its deliveries (100,000 in queues that a worker declares). This page never looks by itself.";
  const parts = [];
  if (look.match.length) parts.push(`Only letters with ${visible(look.match.join(", "))}: ${letters(look.letters)} of ${count(look.seen)} read.`);
  if (look.seen < look.total) parts.push(`The look read the oldest ${count(look.seen)} of ${letters(look.total)}${look.stopped ? ", and was stopped" : ""}.`);
  if (look.not_kept) parts.push(`${letters(look.not_kept)} of them are not listed, because memory is limited.`);
  if (look.costs_deliveries) parts.push("On this release a look costs each letter one of its deliveries.");
  if (look.short) parts.push(`${letters(look.short)} have fewer than five deliveries left: lapwing dead list --renew.`);
  return parts.join(" ");
}
