// The dialogs that change dead letters: replay, drop, edit.

import { byId, say, show } from "./dom.js";
import { count, visible } from "./format.js";
import { letters } from "./dead_parts.js";

/** Shows a dialog. Resolves to whether the user said yes. */
function asked(id) {
  const dialog = byId(id);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Asks how to replay `number` letters. Returns the fields of the request, or `null`. */
export async function askReplay({ what, number, most }) {
  say(byId("dead-replay-what"), what);
  say(byId("dead-replay-yes"), `Replay ${letters(number)}`);
  const several = number > 1;
  byId("dead-canary").value = several ? Math.min(3, number - 1) : 0;
  show(byId("dead-canary-label"), several);
  show(byId("dead-canary-note"), several);
  byId("dead-force").checked = false;
  show(byId("dead-force").parentElement, most >= 3);
  byId("dead-rate").value = "";
  byId("dead-replay-to").value = "";
  if (!(await asked("dead-replay-dialog"))) return null;
  const canary = Number(byId("dead-canary").value);
  const rate = Number(byId("dead-rate").value);
  const to = byId("dead-replay-to").value.trim();
  return {
    ...(canary > 0 ? { canary } : {}),
    ...(rate > 0 ? { rate } : {}),
    ...(to ? { to } : {}),
    force: byId("dead-force").checked,
  };
}

/** Asks whether to drop letters. */
export function askDrop({ what, number }) {
  say(byId("dead-drop-what"), what);
  say(byId("dead-drop-yes"), `Drop ${letters(number)}`);
  return asked("dead-drop-dialog");
}

/** Whether each line of a text ends with CR LF, so that a text field can give them back. */
function hasOnlyCrLf(text) {
  return text.includes("\r\n") && !/[\r\n]/.test(text.replaceAll("\r\n", ""));
}

/** Whether a text field can give a text back: it turns each kind of line end into LF. */
export function hasPlainLines(text) {
  return !text.includes("\r") || hasOnlyCrLf(text);
}

/** Lets the user edit a text that has plain lines. Returns the new text, or `null`. */
export async function askEdit(id, text) {
  const field = byId("dead-edit-body");
  const note = byId("dead-edit-note");
  say(byId("dead-edit-title"), `Edit the body of ${visible(id)}`);
  field.value = text;
  const before = field.value;
  const edited = () => (hasOnlyCrLf(text) ? field.value.replaceAll("\n", "\r\n") : field.value);
  const json = isJson(text);
  const check = () => {
    const changed = field.value !== before;
    byId("dead-edit-yes").setAttribute("aria-disabled", String(!changed));
    const broken = json && !isJson(field.value) ? " This is no JSON any more, and the body was." : "";
    say(note, changed ? `${count(new Blob([edited()]).size)} bytes, changed.${broken}` : "Not changed.");
    note.classList.toggle("bad", Boolean(broken));
  };
  field.oninput = check;
  check();
  const yes = await asked("dead-edit-dialog");
  return yes && field.value !== before ? edited() : null;
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
