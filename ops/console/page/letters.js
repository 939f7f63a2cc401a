// Dead letters: what `python -m consumer.dlq` lists and shows, and the button that sends them back.

import { ask } from "./ask.js";
import { byId, cell, choices, empty, facts, line, lines, make, moment, number, opening, pill } from "./dom.js";
import { jsonText } from "./json_text.js";

const filters = byId("letter-filters");
const button = byId("replay");
let last = "";
let count = 0;

const utc = (text) => (text ? new Date(text).toISOString() : "");

function chosen() {
  const { reason, event_type, key, since, until } = Object.fromEntries(new FormData(filters));
  const sent = { reason, event_type, key, since: utc(since), until: utc(until) };
  return Object.fromEntries(Object.entries(sent).filter(([, value]) => value));
}

/** Ask, and show what has changed. */
export async function showLetters() {
  const query = new URLSearchParams(chosen());
  if (filters.replayed.checked) query.set("replayed", "true");
  const note = byId("letters-note");
  let found;
  try {
    found = await ask(`/api/letters?${query}`);
  } catch (error) {
    note.textContent = `${error.message} What is below may be old.`;
    note.classList.add("bad");
    button.disabled = true;
    return;
  }
  note.classList.remove("bad");
  const now = JSON.stringify(found);
  if (now === last) return;
  last = now;
  count = found.letters.filter((letter) => !letter.replayed_at).length;
  button.disabled = count === 0;
  choices(filters.reason, found.reasons.map((each) => each.reason));
  choices(filters.event_type, found.event_types);
  const by = found.reasons.map((each) => `${line(each.reason)} ${number(each.count)}`).join(", ");
  note.textContent = found.count ? `${number(found.count)} ${found.count === 1 ? "letter" : "letters"}: ${by}.${found.count > found.letters.length ? ` The newest ${found.letters.length} are below.` : ""}` : "";
  byId("letters").replaceChildren(...found.letters.map(rowOf));
  const hint = byId("letters-empty");
  hint.hidden = found.letters.length > 0;
  if (!hint.hidden && query.size) empty(hint, "No letter fits these filters");
  else if (!hint.hidden) empty(hint, "No dead letters", "Records that MongoDB refuses permanently are kept here, byte for byte, with the reason, until you fix the cause and send them back.");
}

function rowOf(letter) {
  const row = make(
    "button",
    { class: "row letter-grid", type: "button" },
    cell("mono", letter.letter),
    cell("time", moment(letter.time)),
    cell("wide", letter.reason),
    cell("desk", letter.event_type ?? "–"),
    cell("mono", letter.key ?? "–"),
    make("span", { class: "cell" }, letter.replayed_at ? pill("stored", "sent back") : pill("dead_letter", letter.replays ? `waits · ${letter.replays}×` : "waits"))
  );
  const detail = make("div", { class: "detail two" });
  opening(row, detail, async () => {
    detail.replaceChildren(make("p", { class: "note" }, "Looking …"));
    try {
      detail.replaceChildren(...whole(await ask(`/api/letters/${encodeURIComponent(letter.letter)}`)));
    } catch (error) {
      detail.replaceChildren(make("p", { class: "note bad" }, line(error.message)));
    }
  });
  return make("li", {}, row, detail);
}

function whole(letter) {
  const headers = Object.fromEntries((letter.headers ?? []).map((header) => [header.name, header.value ?? header.value_base64]));
  const message = headers["dlq.error.message"];
  const left = make(
    "div",
    { class: "side" },
    message ? make("div", { class: "part" }, make("h4", {}, "Why it died"), make("p", {}, lines(message))) : null,
    facts([
      ["letter", letter.letter],
      ["came from", letter.origin],
      ["goes back to", letter.topic],
      ["attempts", letter.attempts],
      ["sent back", letter.replays ? `${letter.replays} times` : "never"],
      ["first failure", headers["dlq.failed.first"] && moment(headers["dlq.failed.first"])],
      ["last failure", moment(letter.time)],
    ])
  );
  const value = letter.value ?? letter.value_base64;
  const right = letter.hidden ? make("p", { class: "note" }, "Contents are hidden (CONSOLE_SHOW_BODIES=false).") : typeof value === "string" ? jsonText(value) : make("p", { class: "note" }, "The record has no value.");
  return [left, right];
}

// ── Replay ──

button.addEventListener("click", async () => {
  const body = chosen();
  const dialog = byId("confirm");
  const yes = byId("confirm-yes");
  const text = byId("confirm-text");
  byId("confirm-title").textContent = "Send letters back?";
  text.textContent = "Counting …";
  yes.disabled = true;
  dialog.showModal();
  try {
    const plan = await ask("/api/letters/replay", { method: "POST", body: { ...body, dry_run: true } });
    const topics = Object.entries(plan.topics).map(([topic, letters]) => `${number(letters)} to ${line(topic)}`).join(", ");
    const stay = plan.stay ? ` ${number(plan.stay)} more stay: they were sent back too often before (python -m consumer.dlq replay --max-replays).` : "";
    text.textContent = plan.letters ? `${number(plan.letters)} ${plan.letters === 1 ? "letter goes" : "letters go"} back: ${topics}. If the cause is not fixed, they become dead letters again.${stay}` : `None of these can go back.${stay}`;
    yes.disabled = plan.letters === 0;
  } catch (error) {
    text.textContent = error.message;
  }
  yes.onclick = async () => {
    dialog.close();
    try {
      await ask("/api/letters/replay", { method: "POST", body });
      watchReplay();
    } catch (error) {
      byId("letters-note").textContent = error.message;
    }
  };
});
byId("confirm-no").addEventListener("click", () => byId("confirm").close());

const WORDS = { running: "Sending letters back", stopping: "Stopping after this chunk", done: "Sent back", stopped: "Stopped", failed: "Stopped by an error" };
let watching = false;

/** Show how far a replay is until it ends. */
export async function watchReplay() {
  if (watching) return;
  watching = true;
  const box = byId("progress");
  try {
    for (;;) {
      const progress = await ask("/api/letters/replay");
      if (progress.state === "idle") break;
      const running = progress.state === "running" || progress.state === "stopping";
      const said = `${WORDS[progress.state] ?? progress.state}: ${number(progress.sent)} of ${number(progress.letters)}.${progress.problem ? ` ${line(progress.problem)}` : ""}`;
      const bar = make("progress", { max: Math.max(progress.letters, 1), value: progress.sent, "aria-label": "letters sent back" });
      const stop = make("button", { type: "button", on: { click: () => ask("/api/letters/replay", { method: "DELETE" }) } }, "Stop");
      box.replaceChildren(make("p", {}, said), ...(running ? [bar, stop] : []));
      box.hidden = false;
      if (!running) break;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  } catch (error) {
    box.replaceChildren(make("p", {}, error.message));
    box.hidden = false;
  }
  watching = false;
  last = "";
  showLetters();
}

filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("input", () => {
  last = "";
  showLetters();
});
