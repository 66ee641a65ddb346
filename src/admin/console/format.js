// Formats numbers, times and texts for people.

const NARROW = "\u202f";
const INTEGER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** The text for a missing value. */
export const NONE = "–";

function digits(n) {
  return n < 9.995 ? n.toFixed(n < 0.995 ? 2 : 1) : n.toFixed(0);
}

/** 0, 0.42, 3.1, 124, 1.24 k, 21.8 k: with an SI prefix, without a unit. */
export function si(n) {
  if (n === null || n === undefined || Number.isNaN(n)) return NONE;
  if (Math.abs(n) < 0.005) return "0";
  if (n < 999.5) return digits(n).replace(/\.0+$/, "");
  for (const [scale, prefix] of [[1e3, "k"], [1e6, "M"], [1e9, "G"]]) {
    const scaled = n / scale;
    if (scaled < 999.5) return Number(scaled.toPrecision(3)) + NARROW + prefix;
  }
  return n.toExponential(2);
}

/** A rate: 1.24 k/s. */
export function rate(n) {
  const text = si(n);
  return text === NONE ? NONE : `${text}/s`;
}

/** How fast a number changes: +3.2/s, −0.4/s, 0/s. */
export function change(n) {
  if (n === null || n === undefined) return NONE;
  const text = rate(Math.abs(n));
  return text === "0/s" ? text : `${n > 0 ? "+" : "−"}${text}`;
}

/** A whole number of things, every digit up to ten million. */
export function count(n) {
  if (n === null || n === undefined) return NONE;
  return n < 1e7 ? INTEGER.format(n) : si(n);
}

/** A length of time in seconds: 3.2 ms, 45 s, 14 min, 3 h 12 min, 2 d 4 h. */
export function duration(s) {
  if (s === null || s === undefined || Number.isNaN(s)) return NONE;
  const unit = (n, name) => `${n}${NARROW}${name}`;
  if (s <= 0) return unit(0, "s");
  if (s < 0.9995) {
    const ms = s * 1000;
    return unit(ms < 9.95 ? Number(ms.toFixed(ms < 0.095 ? 2 : 1)) : Math.round(ms), "ms");
  }
  if (s < 9.95) return unit(Number(s.toFixed(1)), "s");
  if (s < 119.5) return unit(Math.round(s), "s");
  const minutes = Math.round(s / 60);
  if (minutes < 120) return unit(minutes, "min");
  const hours = Math.floor(minutes / 60);
  const pair = (big, small, names) => unit(big, names[0]) + (small ? ` ${unit(small, names[1])}` : "");
  if (hours < 48) return pair(hours, minutes % 60, ["h", "min"]);
  return pair(Math.floor(hours / 24), hours % 24, ["d", "h"]);
}

/** A moment in local time, with its day if that is not today. */
export function clock(date) {
  const time = CLOCK.format(date);
  return date.toDateString() === new Date().toDateString() ? time : `${DAY.format(date)} ${time}`;
}

/** A part of a whole: 12 %. */
export function percent(part, whole) {
  if (!whole) return NONE;
  const share = (100 * part) / whole;
  return `${share > 0 && share < 1 ? "<1" : Math.round(share)}${NARROW}%`;
}

/** A word of the API, for people: timed-out becomes "timed out". */
export function words(kebab) {
  return String(kebab).replaceAll("-", " ");
}

// Control characters, and the marks that change the direction of text or hide it.
const UNSEEN = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** A text with its invisible characters spelled out, so that no id can look like another. */
export function visible(text) {
  return String(text ?? "").replace(UNSEEN, (mark) => `\\u{${mark.codePointAt(0).toString(16)}}`);
}
