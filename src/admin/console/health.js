// Is it healthy? One word, one sentence, and the lanes that are the reason.

const DOWN = { connecting: 0, held: 0, stopped: 0, draining: 1 };

const FEW = 3; // failures that are no cause for alarm

/** Whether most of a lane's runs of the last minute failed. */
export function failing({ recent }) {
  return recent.failed >= FEW && recent.failed >= recent.succeeded;
}

/** How much a lane wants to be looked at: 0 first. */
export function urgency(lane) {
  return DOWN[lane.state] ?? (failing(lane) ? 2 : lane.state === "paused" ? 3 : 4);
}

/** The mark of a lane: its shape and colour. */
export function markOf(lane) {
  if (lane.state === "consuming") return failing(lane) ? "bad" : "good";
  return { paused: "paused", draining: "note", stopped: "off" }[lane.state] ?? "bad";
}

function lanesOf(n) {
  return n === 1 ? "1 lane" : `${n} lanes`;
}

/** `{ level, word, text, lanes }`: the text holds no number that moves by itself, as it is read aloud. */
export function verdict(worker, lanes) {
  const all = lanes.length;
  const mute = worker.publishing === null ? "" : `Retries and dead letters cannot be published: ${worker.publishing}.`;
  if (worker.draining) {
    return { level: "note", word: "Draining", text: "It takes nothing new, finishes what runs, and exits.", lanes: [] };
  }
  const down = lanes.filter((lane) => lane.state in DOWN);
  if (down.length) {
    const text = `${down.length} of ${lanesOf(all)} ${down.length === 1 ? "does" : "do"} not consume.`;
    return { level: "bad", word: "Not ready", text: mute ? `${text} ${mute}` : text, lanes: down };
  }
  if (mute) return { level: "bad", word: "Cannot publish", text: mute, lanes: [] };
  const ill = lanes.filter(failing);
  if (ill.length) {
    const text = `Every lane takes messages, but ${lanesOf(ill.length)} of ${all} fail${ill.length === 1 ? "s" : ""} most of its runs.`;
    return { level: "bad", word: "Failing", text: ill.length === 1 ? text : text.replace("its runs", "their runs"), lanes: ill };
  }
  if (!worker.ready) return { level: "bad", word: "Not ready", text: "The worker gives no reason.", lanes: [] };
  const paused = lanes.filter((lane) => lane.state === "paused");
  if (paused.length) {
    const text = `${lanesOf(all - paused.length)} consume${all - paused.length === 1 ? "s" : ""}, ${paused.length} ${paused.length === 1 ? "is" : "are"} paused on purpose.`;
    return { level: "note", word: "Paused", text, lanes: paused };
  }
  return { level: "good", word: "Healthy", text: all === 1 ? "Its lane consumes." : `All ${all} lanes consume.`, lanes: [] };
}
