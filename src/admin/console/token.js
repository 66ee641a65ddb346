// Requests that change something. They need the token, which stays in this tab.

import { byId, say, show } from "./dom.js";
import { ask, Refused } from "./stream.js";

const KEY = "lapwing-token";

let waiting = null;

function keep(token) {
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
  show(byId("forget"), Boolean(token));
}

function finish(token) {
  waiting?.(token);
  waiting = null;
  byId("token-value").value = "";
}

/** Asks the user for the token; `null` if the user gives none. */
function enquire(why) {
  const dialog = byId("token-dialog");
  say(byId("token-why"), why);
  dialog.showModal();
  byId("token-value").focus();
  return new Promise((resolve) => { waiting = resolve; });
}

/** Sets up the dialog and the button for the token. Call it once. */
export function setUpToken() {
  const dialog = byId("token-dialog");
  show(byId("forget"), Boolean(sessionStorage.getItem(KEY)));
  byId("forget").addEventListener("click", () => {
    keep(null);
    byId("main").focus();
  });
  byId("token-cancel").addEventListener("click", () => dialog.close("cancelled"));
  dialog.addEventListener("close", () => {
    finish(dialog.returnValue === "use" ? byId("token-value").value.trim() : null);
    dialog.returnValue = "";
  });
}

/**
 * Sends a request with the token. Asks the user for the token if there is none, or if the worker refuses it.
 *
 * Returns the JSON of the answer, or throws `Refused` with a sentence that says why nothing changed, or that
 * this is not known (status 0).
 */
export function change(method, path, body, options = {}) {
  return withToken((headers) => {
    if (body !== undefined) headers["Content-Type"] = "application/json";
    return ask(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), ...options });
  });
}

/** Calls `send` with the headers of a request that has the token. Otherwise as `change`. */
export async function withToken(send) {
  let token = sessionStorage.getItem(KEY) ?? (await enquire("Changes need the worker's admin.token."));
  for (;;) {
    if (!token) throw new Refused(0, "Nothing was changed: no token was given.");
    try {
      const answer = await send({ Authorization: `Bearer ${token}` });
      keep(token);
      return answer;
    } catch (error) {
      if (!error.status) throw new Refused(0, `There was no answer, so it is not known whether the worker did it: ${error.message}.`);
      if (error.status !== 401) {
        // The worker checks the token before it looks for a letter or a consumer.
        if (error.status === 404) keep(token);
        throw new Refused(error.status, `Refused (${error.status}): ${error.message}.`);
      }
      keep(null);
      token = await enquire(`The worker refused this token (401): ${error.message}.`);
    }
  }
}
