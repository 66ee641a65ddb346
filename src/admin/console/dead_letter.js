// One dead letter: its facts, its attempts on a time line, its headers and its body.

import { byId, facts, h, say, show, stranger } from "./dom.js";
import { count, NONE, visible, words } from "./format.js";
import { trace } from "./messages.js";
import { hasPlainLines } from "./dead_dialogs.js";
import { moment, readable, story } from "./dead_parts.js";
import { change } from "./token.js";

const PATIENCE = 28_000; // ms; the worker may have to read the queue up to the letter

export class LetterView {
  #letter = null;
  #asked = 0; // the number of the last question, as late answers do not count

  constructor(store) {
    this.store = store;
  }

  /** The letter that is shown, or `null`. */
  letter() {
    return this.#letter;
  }

  close() {
    this.#letter = null;
    this.#asked += 1;
    show(byId("dead-letter"), false);
  }

  /**
   * Reads a letter and shows it: from the last look, or with `read` from the queue. Returns a sentence if that
   * fails.
   */
  async open(consumer, id, read = false) {
    this.#letter = null;
    const asked = (this.#asked += 1);
    show(byId("dead-letter"), true);
    say(byId("dead-letter-title"), `Reading ${visible(id)}…`);
    for (const part of ["dead-letter-facts", "dead-letter-story", "dead-headers"]) {
      byId(part).replaceChildren();
      delete byId(part).dataset.terms;
    }
    for (const part of ["dead-letter-error", "dead-body-title", "dead-body"]) say(byId(part), "");
    this.#actions(false);
    byId("dead-letter-back").href = `#dead/${encodeURIComponent(consumer)}`;
    byId("dead-letter-title").focus({ preventScroll: true });
    try {
      const letter = await change("POST", `dead/${encodeURIComponent(consumer)}/show`, { id, read }, { signal: AbortSignal.timeout(PATIENCE) });
      if (asked === this.#asked) this.#show(letter);
      return "";
    } catch (error) {
      if (asked !== this.#asked) return "";
      say(byId("dead-letter-title"), visible(id));
      if (read || error.status !== 404) return visible(error.message);
      this.#offer(consumer, id);
      return "";
    }
  }

  /** Offers to read a letter that the last look has not kept whole. That costs what a look costs. */
  #offer(consumer, id) {
    const read = async () => say(byId("dead-answer"), await this.open(consumer, id, true));
    byId("dead-letter-story").replaceChildren(
      h("p", {}, "The last look has not kept this letter whole. To read it, the worker takes letters of the queue from the broker and returns them. On RabbitMQ before 4.3 that costs each of them one of its deliveries."),
      h("button", { type: "button", id: "dead-letter-read", onclick: read }, "Read it from the queue"));
  }

  #actions(possible) {
    for (const name of ["replay", "edit", "drop"]) byId(`dead-letter-${name}`).setAttribute("aria-disabled", String(!possible));
  }

  #show(letter) {
    this.#letter = letter;
    const { summary, body } = letter;
    const template = this.store.worker?.trace_url;
    byId("dead-letter-title").replaceChildren(stranger(summary.id, { class: "code" }));
    byId("dead-letter-error").replaceChildren(stranger(summary.kind ? `${summary.kind}: ${summary.error}` : summary.error, { dir: "auto" }));
    const text = (value) => (value === null || value === "" ? NONE : stranger(value));
    facts(byId("dead-letter-facts"), [
      ["Dead-lettered", moment(summary.failed_at)],
      ["Reason", words(visible(summary.reason))],
      ["Type", text(summary.type)],
      ["From queue", text(summary.source_queue)],
      ["Exchange", text(summary.source_exchange)],
      ["Routing key", text(summary.source_routing_key)],
      ["Attempts", count(summary.attempts)],
      ["Replays", count(summary.replays)],
      ["Deliveries", count(summary.deliveries)],
      ["Trace", trace(summary.trace_id, template) ?? NONE],
      ["Cause", stranger(summary.group, { class: "code" })],
    ]);
    byId("dead-letter-story").replaceChildren(h("h4", {}, "Its story"), story(letter, template));
    const { title, text: shown } = readable(body);
    say(byId("dead-body-title"), title);
    say(byId("dead-body"), shown);
    const rows = [...letter.properties, ...letter.headers];
    byId("dead-headers").replaceChildren(...rows.map(({ name, value }) =>
      h("div", {}, h("dt", {}, stranger(name)), h("dd", { class: "code" }, stranger(value)))));
    const changes = Boolean(this.store.worker?.can_change);
    this.#actions(changes);
    const editable = changes && body.text !== null && !body.cut && hasPlainLines(body.text);
    byId("dead-letter-edit").setAttribute("aria-disabled", String(!editable));
    byId("dead-letter-edit").title = editable ? "" : "Only a body that is text, not too long and with one kind of line ends can be edited here: lapwing dead edit";
  }
}
