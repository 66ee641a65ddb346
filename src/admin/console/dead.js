// The page for dead letters: what the last look has seen, and what can be done about it.
//
// A look takes the letters from the broker and returns them, which costs a delivery on some releases. So
// the page never looks by itself. It shows when somebody looked, and asks the broker only for the number of
// letters, which costs them nothing.
//
// A job gets the question that the lists on the page have answered, and not what the fields say at the click:
// the user decides by what the page shows.

import { decode } from "./address.js";
import { askDrop, askEdit, askReplay } from "./dead_dialogs.js";
import { download, JobView } from "./dead_job.js";
import { LetterView } from "./dead_letter.js";
import { cost, letters } from "./dead_parts.js";
import { Lists, PAGE } from "./dead_lists.js";
import { chosen, isSame, only, query, selection } from "./dead_select.js";
import { Ticks } from "./dead_ticks.js";
import { byId, h, say, show } from "./dom.js";
import { clock, count, duration, visible } from "./format.js";
import { ask, Poll, Refused } from "./stream.js";
import { change } from "./token.js";

const CAUSES = 200;
const TYPING = 250; // ms
const LOST_JOB = "The job is not known any more: the worker has restarted. Look again to see what is left.";

export class DeadView {
  #open = false;
  #consumer = null; // the one that is shown
  #wanted = null; // the one that the address names
  #id = null; // the letter that the address names
  #desk = null;
  #groups = null;
  #page = null;
  #behind = [null]; // the cursors of the pages up to this one
  #cause = null; // the one that was chosen: its group and its reason
  #newest = true;
  #depth = null;
  #asked = 0; // the number of the last question for a page, as late answers do not count
  #filters = 0; // the same for the causes

  constructor(store, live) {
    this.store = store;
    this.letterView = new LetterView(store);
    this.jobView = new JobView(() => this.#open && live(), (job) => this.#ended(job));
    const choose = (it) => this.#choose(isSame(this.#cause, it) ? null : it);
    const replay = (it) => this.#replay(selection({ ...it.of, cause: it }), `The letters of one cause, as far as they are chosen above, and those that have come since: ${visible(it.error)}`, it.count, 3);
    this.ticks = new Ticks({
      changed: () => this.#show(),
      full: (most) => say(byId("dead-answer"), `At most ${most} letters can be ticked. Choose more by the search.`),
    });
    this.lists = new Lists({ choose, replay, ticks: this.ticks });
    this.depth = new Poll({
      period: 5000,
      // Letters that a job holds do not count as ready.
      due: () => this.#open && live() && this.#consumer !== null && !this.jobView.isRunning(),
      path: () => `consumers/${encodeURIComponent(this.#consumer)}/retry-queues`,
      answer: ({ dead_letters: { messages } }) => { this.#depth = messages; this.#showCount(); },
    });
    this.#listen();
  }

  #listen() {
    const on = (id, event, act) => byId(id).addEventListener(event, act);
    on("dead-look", "click", () => this.#look());
    on("dead-consumer", "change", ({ target }) => { location.hash = `#dead/${encodeURIComponent(target.value)}`; });
    let typing = null;
    on("dead-text", "input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.#filtered(), TYPING);
    });
    on("dead-since", "change", () => this.#filtered());
    on("dead-match-form", "submit", (event) => {
      event.preventDefault();
      this.#look();
    });
    on("dead-all-causes", "click", () => this.#choose(null));
    on("dead-newest", "click", () => this.#order(true));
    on("dead-oldest", "click", () => this.#order(false));
    on("dead-previous", "click", () => this.#turn(-1));
    on("dead-next", "click", () => this.#turn(1));
    const page = (act) => () => { if (this.#page) act(this.#page); };
    on("dead-replay", "click", page((it) => this.#replay(...chosen(it, this.#desk, this.ticks))));
    on("dead-drop", "click", page((it) => this.#drop(...chosen(it, this.#desk, this.ticks))));
    on("dead-export", "click", page((it) => this.#export(...chosen(it, this.#desk, this.ticks))));
    on("dead-untick", "click", () => {
      this.ticks.clear();
      this.#show();
      byId("dead-letters-title").focus({ preventScroll: true });
    });
    const letter = (act) => () => { if (this.letterView.letter()) act(this.letterView.letter()); };
    on("dead-letter-replay", "click", letter((it) => this.#replay(only(it), `The letter ${visible(it.summary.id)}.`, 1, it.summary.replays)));
    on("dead-letter-drop", "click", letter((it) => this.#drop(only(it), `The letter ${visible(it.summary.id)}.`, 1)));
    on("dead-letter-edit", "click", letter((it) => this.#edit(it)));
  }

  isOpen() {
    return this.#open;
  }

  /** Opens or closes the page as the address says. Returns whether it is open: #dead, #dead/NAME, #dead/NAME/ID. */
  follow(address) {
    const [, name, id] = address.match(/^#dead(?:\/([^/]*))?(?:\/(.+))?$/) ?? [];
    const opened = /^#dead($|\/)/.test(address);
    const was = this.#open;
    this.#open = opened;
    document.body.classList.toggle("on-dead", opened);
    show(byId("dead"), opened);
    if (!opened) {
      if (was) byId("main").focus();
      return false;
    }
    this.#wanted = name ? decode(name) : null;
    this.#id = id ? decode(id) : null;
    if (this.store.worker) this.#enter(!was);
    return true;
  }

  /** Shows the consumer and the letter that the address names. */
  #enter(fresh) {
    const names = [...this.store.consumers.keys()];
    const most = names.reduce((a, b) => (this.#dead(b) > this.#dead(a) ? b : a), names[0]);
    const consumer = this.#wanted !== null && this.store.consumers.has(this.#wanted) ? this.#wanted : most;
    this.#fillSelect(names, consumer);
    if (fresh) {
      window.scrollTo(0, 0);
      byId("dead-title").focus({ preventScroll: true });
    }
    const other = consumer !== this.#consumer;
    this.#consumer = consumer;
    if (other) {
      this.#forget();
      this.depth.tick(true);
    }
    if (other || fresh) this.#load();
    this.#showLetterOrLists();
  }

  #dead(name) {
    return this.store.consumers.get(name).ledger.dead_lettered;
  }

  #fillSelect(names, consumer) {
    const select = byId("dead-consumer");
    const known = names.join("\n");
    if (select.dataset.known !== known) {
      select.dataset.known = known;
      select.replaceChildren(...names.map((name) => h("option", { value: name }, visible(name))));
    }
    select.value = consumer;
    show(byId("dead-consumer-label"), names.length > 1);
  }

  #forget() {
    this.#desk = this.#groups = this.#page = this.#depth = null;
    this.#behind = [null];
    this.#cause = null;
    this.ticks.clear();
    byId("dead-text").value = "";
    byId("dead-since").value = "";
    byId("dead-match").value = "";
    say(byId("dead-answer"), "");
    this.jobView.follow(this.#consumer, null);
  }

  async #showLetterOrLists() {
    const id = this.#id;
    if (id === null) {
      const back = this.letterView.letter();
      this.letterView.close();
      this.#show();
      if (back) byId("dead-letters-title").focus({ preventScroll: true });
      return;
    }
    this.#show();
    if (this.letterView.letter()?.summary.id === id) return;
    say(byId("dead-answer"), "");
    const answer = await this.letterView.open(this.#consumer, id);
    if (this.#id === id) say(byId("dead-answer"), answer);
  }

  /** The worker has restarted: what it kept is gone. */
  async restarted() {
    if (this.#consumer === null) return;
    const ran = this.jobView.isRunning();
    this.#desk = this.#groups = this.#page = this.#cause = null;
    this.#behind = [null];
    this.jobView.follow(this.#consumer, null);
    if (!this.store.consumers.has(this.#consumer)) this.#consumer = null;
    else if (this.#open) await this.#load();
    if (ran) say(byId("dead-answer"), LOST_JOB);
  }

  /** Asks for the last look and job, and then for the letters of the look. */
  async #load() {
    const consumer = this.#consumer;
    const desk = await this.#ask(`dead/${encodeURIComponent(consumer)}`);
    if (!desk || consumer !== this.#consumer) return;
    this.#desk = desk;
    this.jobView.follow(consumer, desk.job);
    await this.#filtered();
  }

  /** The answer, or `null`. If the look is over, this asks for the last one. */
  async #ask(path) {
    try {
      return await ask(path);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      say(byId("dead-answer"), visible(error.message));
      if (this.#desk && (error.status === 404 || error.status === 410)) {
        this.#desk = this.#groups = this.#page = null;
        this.#show();
        this.#load();
      }
      return null;
    }
  }

  /** What the fields say now. */
  #fields() {
    return {
      text: byId("dead-text").value.trim(),
      since: this.#since(),
      look: this.#desk.look.match.length ? this.#desk.look.look : null,
    };
  }

  /** The time of the filter, counted back from the look: so it means the same letters later. */
  #since() {
    const seconds = Number(byId("dead-since").value);
    if (!seconds || !this.#desk?.look) return null;
    return new Date(Date.parse(this.#desk.look.looked_at) - seconds * 1000).toISOString();
  }

  /** The filter has changed: groups and the first page. */
  async #filtered() {
    if (!this.#desk?.look) {
      this.#groups = this.#page = null;
      this.#show();
      return;
    }
    const asked = (this.#filters += 1);
    // Nobody sees what is ticked and does not fit.
    this.ticks.clear();
    const of = this.#fields();
    const groups = await this.#ask(`dead/${encodeURIComponent(this.#consumer)}/groups?${query(of, { limit: CAUSES })}`);
    if (asked !== this.#filters) return;
    this.#groups = groups && { ...groups, of };
    if (!groups || !groups.groups.some((it) => isSame(this.#cause, it))) this.#cause = null;
    this.#behind = [null];
    await this.#fetchPage();
  }

  /** Asks for a page. Without an answer the page is empty: its numbers would be those of another question. */
  async #fetchPage() {
    if (!this.#desk?.look) return;
    const asked = (this.#asked += 1);
    const of = { ...this.#fields(), cause: this.#cause };
    const page = await this.#ask(`dead/${encodeURIComponent(this.#consumer)}/letters?${query(of, { limit: PAGE, newest: this.#newest, cursor: this.#behind.at(-1) })}`);
    if (asked !== this.#asked) return;
    // Somebody has looked in another tab.
    if (page && this.#desk?.look && page.look !== this.#desk.look.look) {
      this.#load();
      return;
    }
    this.#page = page && { ...page, of };
    this.#show();
  }

  #choose(it) {
    this.ticks.clear();
    this.#cause = it && { group: it.group, reason: it.reason };
    this.#behind = [null];
    this.#fetchPage();
  }

  #order(newest) {
    this.#newest = newest;
    this.#behind = [null];
    this.#fetchPage();
  }

  #turn(step) {
    if (step > 0 && this.#page?.next) this.#behind.push(this.#page.next);
    else if (step < 0 && this.#behind.length > 1) this.#behind.pop();
    else return;
    this.#fetchPage();
  }

  /** Starts a job and follows it. */
  async #start(path, body) {
    const consumer = this.#consumer;
    say(byId("dead-answer"), "");
    try {
      const job = await change("POST", `dead/${encodeURIComponent(consumer)}/${path}`, body);
      if (consumer === this.#consumer) this.jobView.follow(consumer, job);
      this.jobView.poll.tick(true);
    } catch (error) {
      // Without an answer the job may run.
      if (error.status === 0) await this.#load();
      say(byId("dead-answer"), visible(error.message));
    }
  }

  #look() {
    if (this.jobView.isBusy() || !this.store.worker?.can_change) return;
    const match = byId("dead-match").value.trim();
    this.#start("look", { select: match ? { match: [match] } : {} });
  }

  async #replay(chosen, what, number, most) {
    if (!number || !this.store.worker?.can_change || this.jobView.isBusy()) return;
    const fields = await askReplay({ what, number, most });
    if (fields) await this.#start("replay", { ...chosen, ...fields });
  }

  async #drop(chosen, what, number) {
    if (!number || !this.store.worker?.can_change || this.jobView.isBusy()) return;
    if (await askDrop({ what, number })) await this.#start("drop", chosen);
  }

  async #edit({ summary: { id }, body }) {
    if (byId("dead-letter-edit").getAttribute("aria-disabled") === "true") return;
    const text = await askEdit(id, body.text);
    if (text !== null) await this.#start("edit", { id, from: body.hash, text });
  }

  async #export({ select = {} }, _what, number) {
    if (!number || !this.store.worker?.can_change || this.jobView.isBusy()) return;
    const consumer = this.#consumer;
    say(byId("dead-answer"), "Exporting…");
    const begun = async () => {
      const desk = await this.#ask(`dead/${encodeURIComponent(consumer)}`);
      if (desk && consumer === this.#consumer) this.jobView.follow(consumer, desk.job);
    };
    try {
      const bytes = await download(consumer, select, begun);
      say(byId("dead-answer"), `Exported ${count(bytes)} bytes as ${visible(consumer)}.dead.jsonl.`);
    } catch (error) {
      say(byId("dead-answer"), error.status === 0 ? "The export broke off. Nothing was saved." : visible(error.message));
    }
  }

  /** A job has ended: the worker knows which letters are left. `null`: the worker knows nothing of the job. */
  async #ended(job) {
    this.depth.tick(true);
    if (!job) {
      await this.#load();
      say(byId("dead-answer"), LOST_JOB);
      return;
    }
    if (this.#id !== null && job.state === "done" && job.result.changed) {
      if (job.kind === "edit") this.letterView.open(this.#consumer, this.#id, true);
      else location.hash = `#dead/${encodeURIComponent(this.#consumer)}`;
    }
    this.#load();
  }

  /** Called with each state: ages grow, and polls may be due. */
  update() {
    if (!this.#open) return;
    if (this.#consumer === null) this.#enter(true);
    this.depth.tick();
    this.#showCount();
  }

  #showCount() {
    const { look } = this.#desk ?? {};
    say(byId("dead-count"), this.#depth === null ? "" : `${letters(this.#depth)} in ${visible(this.#desk?.queue ?? "the queue")} now`);
    const age = look ? this.store.since(look.looked_at) : 0;
    say(byId("dead-as-of"), look ? `As of ${clock(new Date(look.looked_at))}, ${duration(Math.max(0, age))} ago` : "");
  }

  #show() {
    const look = this.#desk?.look ?? null;
    const can = Boolean(this.store.worker?.can_change);
    say(byId("dead-look"), look ? "Look again" : "Look");
    byId("dead-look").setAttribute("aria-disabled", String(!can));
    say(byId("dead-cost"), cost(look, can));
    const lists = look !== null && this.#id === null;
    show(byId("dead-lists"), lists);
    show(byId("dead-empty"), look === null && this.#id === null && this.#desk !== null);
    say(byId("dead-empty"), "Nobody has looked at these letters since the worker started, or the look is too long ago.");
    this.#showCount();
    if (!lists) return;
    this.lists.show({
      groups: this.#groups, page: this.#page, cause: this.#cause, newest: this.#newest, behind: this.#behind.length - 1, can, consumer: this.#consumer,
    });
  }
}
