// The job for dead letters that runs, or the last one: its progress and its result.

import { byId, h, say, show, stranger } from "./dom.js";
import { clock, count, visible, words } from "./format.js";
import { letters } from "./dead_parts.js";
import { Poll, Refused } from "./stream.js";
import { change, withToken } from "./token.js";

const DOES = { look: "Looking", show: "Reading a letter", export: "Exporting", "dry-run": "A dry run", import: "Importing", replay: "Replaying", edit: "Editing", drop: "Dropping" };
const DID = { replay: "Replayed", edit: "Edited", drop: "Dropped", import: "Imported", "dry-run": "A dry run" };
const DETAILS = 20;

/** Follows a job. Calls `ended` once when it has ended, or with `null` when the worker does not know it. */
export class JobView {
  #consumer = null;
  #job = null;

  constructor(live, ended) {
    this.ended = ended;
    this.poll = new Poll({
      period: 500,
      due: () => live() && this.isRunning(),
      path: () => `dead/${encodeURIComponent(this.#consumer)}/jobs/${this.#job?.id}`,
      answer: (job) => this.#take(job),
      failed: ({ status }) => { if (status === 404) this.#lose(); },
    });
    // A state comes once a second; a job is to be seen moving.
    setInterval(() => { if (this.isRunning()) this.poll.tick(); }, 500);
    byId("dead-stop").addEventListener("click", () => this.#stop());
  }

  /** Whether a job runs, so that another one must wait. Says so. */
  isBusy() {
    if (this.isRunning()) say(byId("dead-answer"), "A job is running. Wait for its end, or stop it.");
    return this.isRunning();
  }

  isRunning() {
    return this.#job?.state === "running";
  }

  /** Shows this job of a consumer, or none. */
  follow(consumer, job) {
    this.#consumer = consumer;
    this.#job = job;
    this.#show();
  }

  #take(job) {
    if (job.id !== this.#job?.id || !this.isRunning()) return;
    this.#job = job;
    this.#show();
    if (job.state !== "running") this.ended(job);
  }

  #lose() {
    this.follow(this.#consumer, null);
    this.ended(null);
  }

  async #stop() {
    const job = this.#job;
    if (!job || byId("dead-stop").getAttribute("aria-disabled") === "true") return;
    byId("dead-stop").setAttribute("aria-disabled", "true");
    try {
      await change("DELETE", `dead/${encodeURIComponent(this.#consumer)}/jobs/${job.id}`);
    } catch (error) {
      byId("dead-stop").removeAttribute("aria-disabled");
      say(byId("dead-answer"), visible(error.message));
    }
  }

  #show() {
    const job = this.#job;
    // A look that has ended is told by its time above.
    const told = job && (job.state === "running" || job.state === "failed" || DID[job.kind] || job.state === "stopped");
    show(byId("dead-job"), Boolean(told));
    if (!told) return;
    const running = job.state === "running";
    if (!running) byId("dead-stop").removeAttribute("aria-disabled");
    show(byId("dead-progress"), running);
    show(byId("dead-stop"), running);
    say(byId("dead-job-text"), running ? progressOf(job) : resultOf(job));
    byId("dead-job").dataset.level = level(job);
    const bar = byId("dead-progress");
    const { total, seen, canaries } = job.progress;
    bar.max = Math.max(1, canaries ? canaries.sent : total);
    bar.value = canaries ? canaries.known : Math.min(seen, total);
    const details = running ? [] : detailsOf(job);
    byId("dead-job-details").replaceChildren(...details.slice(0, DETAILS));
    if (details.length > DETAILS) byId("dead-job-details").append(h("li", {}, `and ${count(details.length - DETAILS)} more`));
  }
}

function level({ state, result }) {
  if (state === "running") return "";
  const canaries = result?.canaries;
  return state === "failed" || canaries?.ended || (result && Object.keys(result.kept).length) ? "bad" : "good";
}

/** What a running job does. The text is read aloud when it changes, so it has no number that always changes. */
function progressOf({ kind, progress: { total, canaries } }) {
  if (canaries) {
    return `Waiting for ${count(canaries.sent)} ${canaries.sent === 1 ? "canary" : "canaries"}: ${count(canaries.succeeded)} succeeded, ${count(canaries.known - canaries.succeeded)} did not.`;
  }
  const where = kind === "import" ? "" : " in the queue";
  return `${DOES[kind]}${total ? `: ${letters(total)}${where}` : ""}…`;
}

function resultOf({ kind, state, result, error, ended_at: ended }) {
  const at = `${clock(new Date(ended))}: `;
  if (state === "failed") return `${at}${DOES[kind]} failed: ${visible(error)}.`;
  const stopped = state === "stopped" ? ` It was stopped before the end${kind === "import" ? "" : " of the queue"}.` : "";
  if (kind === "dry-run") return `${at}${DID[kind]}: ${letters(result.selected)} selected, nothing changed.${stopped}`;
  if (!DID[kind]) return `${at}${DOES[kind]} was stopped.`;
  const canaries = result.canaries;
  const unconfirmed = canaries && canaries.succeeded === canaries.sent && state !== "stopped" ? ", and the copy of one was not confirmed" : "";
  const why = canaries?.ended ? ` ${count(canaries.succeeded)} of ${count(canaries.sent)} canaries succeeded${unconfirmed}, so the other letters stay.` : "";
  const none = result.selected === 0 ? " No letter fits." : "";
  return `${at}${DID[kind]} ${letters(result.changed)}.${none}${why}${stopped}`;
}

function detailsOf({ result }) {
  if (!result) return [];
  const kept = Object.entries(result.kept).map(([why, n]) => h("li", {}, `${letters(n)} stayed: `, stranger(why)));
  const to = Object.entries(result.targets ?? {}).map(([queue, n]) => h("li", {}, `${letters(n)} would go to `, stranger(queue)));
  if (result.elsewhere) to.push(h("li", {}, `${letters(result.elsewhere)} would go to other queues`));
  const { failed = [], silent = [], lost } = result.canaries ?? {};
  const after = { retry: ", will be retried", "dead-letter": ", is a dead letter again" };
  const ill = failed.map((it) => h("li", {}, stranger(it.id, { class: "code" }), `: ${words(it.outcome)}${after[it.settlement] ?? ""}${it.error ? ": " : ""}`, stranger(it.error, { class: "error" })));
  const mute = silent.map((id) => h("li", {}, stranger(id, { class: "code" }), ": no outcome was reported"));
  const why = silent.length
    ? [h("li", { class: "aside" }, lost ? `The wait was cut short: ${visible(lost)}.` : "Does a worker consume the queue? Workers of older versions, and of users that are not trusted (broker.trusted_users), report nothing.")]
    : [];
  return [...to, ...kept, ...ill, ...mute, ...why];
}

/** Exports these letters as a file. Calls `begun` when the job runs. Returns the length of the file. */
export async function download(consumer, select, begun) {
  const blob = await withToken(async (headers) => {
    const body = JSON.stringify(select);
    headers["Content-Type"] = "application/json";
    const answer = await fetch(`api/v1/dead/${encodeURIComponent(consumer)}/export`, { method: "POST", headers, body });
    if (answer.ok) {
      begun();
      return answer.blob();
    }
    throw new Refused(answer.status, (await answer.json().catch(() => ({}))).error ?? answer.statusText);
  });
  const link = h("a", { href: URL.createObjectURL(blob), download: `${consumer}.dead.jsonl` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  return blob.size;
}
