// Charts of the last five minutes. uPlot draws them; the page loads it as a plain script.

import { clock, duration, rate, si, NONE } from "./format.js";
import { h, say } from "./dom.js";

/* global uPlot */

const SPAN = 300; // seconds
const colours = matchMedia("(prefers-color-scheme: dark)");

/** A colour of the style sheet: a canvas cannot read CSS variables. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** The times of a history's steps, oldest first, in seconds since 1970. */
function times({ step_seconds: step, until, received }) {
  const end = Date.parse(until) / 1000;
  return received.map((_, index) => end - (received.length - 1 - index) * step);
}

/** The lines differ in dash and width, not only in colour. Failures are bars: at 0 there is none. */
const LINES = {
  received: { title: "received", colour: "--muted", dash: [2, 2], width: 1 },
  succeeded: { title: "succeeded", colour: "--good", width: 1.5 },
  failed: { title: "failed", colour: "--bad", bars: true, width: 0 },
  p50_seconds: { title: "median", colour: "--muted", width: 1.5 },
  p95_seconds: { title: "95th percentile", colour: "--text", dash: [6, 3], width: 1.5 },
  in_flight: { title: "in flight", colour: "--text", width: 1.5 },
  ready: { title: "ready", colour: "--text", width: 1.5 },
};

/** The charts of a consumer. Lines are drawn in this order; the key names them in reverse. */
export const CHARTS = [
  { title: "Throughput", lines: ["failed", "succeeded", "received"], text: rate, axis: si, floor: 1 },
  { title: "Ready in the queue", lines: ["ready"], text: si, axis: si, floor: 1 },
  { title: "Handler time, over 30 s", lines: ["p95_seconds", "p50_seconds"], text: duration, axis: duration, floor: 0.001 },
  { title: "In flight", lines: ["in_flight"], text: si, axis: si, floor: 1 },
];

function series(key, more = {}) {
  const line = LINES[key];
  const drawn = { stroke: () => colour(line.colour), width: line.width, dash: line.dash, points: { show: false }, ...more };
  if (!line.bars) return drawn;
  return { ...drawn, width: 0, fill: drawn.stroke, paths: uPlot.paths.bars({ size: [1, 4, 1] }) };
}

function scales(floor, data) {
  return {
    x: { time: true, range: () => { const end = data().at(-1) ?? 0; return [end - SPAN, end]; } },
    y: { range: (_, __, max) => [0, Math.max(floor, (max ?? 0) * 1.1)] },
  };
}

/** A chart with axes and a key. The key shows the values under the pointer, or else the last ones. */
export class Chart {
  #plot = null;
  #data = [[]];

  constructor(parent, kind) {
    this.kind = kind;
    this.values = kind.lines.map(() => h("span", { class: "value" }));
    this.at = h("span", { class: "at" });
    this.canvas = h("div", { class: "plot", role: "img" });
    const key = kind.lines.map((name, index) =>
      h("span", { class: "key" }, h("span", { class: `line ${name}`, "aria-hidden": "true" }), `${LINES[name].title} `, this.values[index]));
    parent.append(h("figure", {}, h("figcaption", {}, h("h3", {}, kind.title), ...key.reverse(), this.at), this.canvas));
    new ResizeObserver(() => this.#fit()).observe(this.canvas);
    colours.addEventListener("change", () => this.#plot?.redraw());
  }

  /** Draws a history. */
  draw(history) {
    if (!history.received.length) {
      this.canvas.setAttribute("aria-label", `${this.kind.title}: nothing yet`);
      return;
    }
    this.#data = [times(history), ...this.kind.lines.map((name) => history[name])];
    if (this.#plot) this.#plot.setData(this.#data);
    else this.#make();
    if (this.#plot && this.#plot.cursor.idx === null) this.#tell(null);
    const now = this.kind.lines.map((name, index) => `${LINES[name].title} ${this.#text(index, null)}`);
    this.canvas.setAttribute("aria-label", `${this.kind.title} over the last five minutes; now: ${now.reverse().join(", ")}`);
  }

  /** Removes the plot, before another consumer is shown. */
  clear() {
    this.#plot?.destroy();
    this.#plot = null;
    for (const value of this.values) say(value, NONE);
  }

  #make() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width) return;
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { font, stroke: () => colour("--muted"), grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false } };
    this.#plot = new uPlot({
      width, height,
      padding: [8, 6, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false }, sync: { key: "consumer" } },
      scales: scales(this.kind.floor, () => this.#data[0]),
      axes: [
        { ...axis, size: 22, gap: 2, space: 52, values: (_, at) => at.map((s) => clock(new Date(s * 1000)).slice(-8, -3)) },
        { ...axis, size: 54, gap: 4, space: 28, values: (_, at) => at.map(this.kind.axis) },
      ],
      series: [{}, ...this.kind.lines.map((name) => series(name))],
      hooks: { setCursor: [(plot) => this.#tell(plot.cursor.idx)] },
    }, this.#data, this.canvas);
  }

  #fit() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width) return;
    if (this.#plot) this.#plot.setSize({ width, height });
    else if (this.#data[0].length) this.#make();
  }

  #text(index, at) {
    const values = this.#data[index + 1];
    return this.kind.text(at === null || at === undefined ? values.at(-1) : values[at]);
  }

  #tell(at) {
    const shown = at ?? null;
    this.values.forEach((value, index) => say(value, this.#text(index, shown)));
    say(this.at, shown === null ? "" : `at ${clock(new Date(this.#data[0][shown] * 1000))}`);
  }
}

/** A chart of the size of a word, without axes. It shows only the trend. */
export class Spark {
  #plot = null;
  #data = [[]];

  constructor(parent, lines, floor) {
    this.parent = parent;
    this.lines = lines;
    this.floor = floor;
    colours.addEventListener("change", () => this.#plot?.redraw());
  }

  /** Draws a history. */
  draw(history) {
    if (!history.received.length) return;
    this.#data = [times(history), ...this.lines.map((name) => history[name])];
    if (this.#plot) this.#plot.setData(this.#data);
    else if (this.parent.clientWidth) this.#make();
  }

  #make() {
    const hidden = { show: false };
    this.#plot = new uPlot({
      width: this.parent.clientWidth,
      height: this.parent.clientHeight,
      padding: [2, 0, 1, 0],
      legend: hidden,
      cursor: hidden,
      axes: [hidden, hidden],
      scales: scales(this.floor, () => this.#data[0]),
      series: [{}, ...this.lines.map((name) => series(name, { width: 1, dash: undefined, ...(name === "p95_seconds" && { stroke: () => colour("--muted") }) }))],
    }, this.#data, this.parent);
  }
}
