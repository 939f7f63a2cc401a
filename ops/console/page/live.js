// The events as they come, each with its state. A burst is drawn at once: its newest rows, in one go.

import { ask } from "./ask.js";
import { byId, cell, choices, clock, empty, facts, line, make, moment, number, opening, pill } from "./dom.js";
import { jsonText } from "./json_text.js";

const MOST_KEPT = 1000;
const MOST_ROWS = 200;
const MOST_ANIMATED = 20;
const STATES = { in_kafka: "in Kafka", stored: "stored", dead_letter: "dead letter" };

const events = new Map(); // by place, the oldest first
const rows = new Map(); // by place, what is drawn
const changed = new Set();
const arrived = new Set(); // those of them that are new
const filters = byId("live-filters");
let paused = false;
let behind = 0;
let notShown = 0;
let due = false;
let pauseMs = 100;
let redraw = true;

/** Start listening; `tell` hears whether the stream runs. */
export function startLive(tell) {
  const source = new EventSource("/api/live");
  source.onopen = () => tell(true);
  source.onerror = () => {
    tell(false);
    // A 503, of eight viewers, ends it for good.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => startLive(tell), 5000);
  };
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (!events.has(event.place)) {
      arrived.add(event.place);
      if (paused) behind += 1;
    }
    events.set(event.place, event);
    changed.add(event.place);
    while (events.size > MOST_KEPT) events.delete(events.keys().next().value);
    schedule();
  };
  source.addEventListener("skipped", (message) => {
    notShown += JSON.parse(message.data).count;
    schedule();
  });
  schedule();
}

filters.addEventListener("input", () => {
  redraw = true;
  schedule();
});
filters.addEventListener("submit", (event) => event.preventDefault());
byId("pause").addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", String(paused));
  event.target.textContent = paused ? "Go on" : "Pause";
  if (!paused) {
    behind = notShown = 0;
    redraw = true;
  }
  schedule();
});

function schedule() {
  if (due) return;
  due = true;
  // Not in a frame: a page in the background gets no frames, and the waiting events would pile up.
  setTimeout(() => {
    const began = performance.now();
    due = false;
    draw();
    // On a slow machine, drawing takes at most a third of the time: clicks come first.
    pauseMs = Math.max(100, 2 * (performance.now() - began));
  }, pauseMs);
}

/** The filters as a function: whether they let an event through. */
function filter() {
  const { state, event_type, source, customer_id, text } = Object.fromEntries(new FormData(filters));
  const has = (value, part) => String(value ?? "").toLowerCase().includes(part.toLowerCase());
  return (event) =>
    (!state || event.state === state) &&
    (!event_type || event.event_type === event_type) &&
    (!source || event.source === source) &&
    (!customer_id || has(event.customer_id, customer_id)) &&
    (!text || [event.event_name, event.event_id, event.customer_id, event.event_type, event.source].some((value) => has(value, text)));
}

function draw() {
  const list = byId("events");
  const wanted = filter();
  choices(filters.event_type, names("event_type"));
  choices(filters.source, names("source"));
  if (redraw) {
    redraw = false;
    rows.clear();
    const matching = [...events.values()].filter(wanted).slice(-MOST_ROWS).reverse();
    list.replaceChildren(...matching.map(rowOf));
  } else {
    const fresh = [];
    for (const place of changed) {
      const event = events.get(place);
      if (!event) continue;
      const row = rows.get(place);
      if (row) update(row, event);
      // The state of an older event changes too: its row is gone, unless that state is what the reader filters by.
      else if (!paused && (arrived.has(place) || filters.state.value) && wanted(event)) fresh.push(event);
    }
    prepend(list, fresh.slice(-MOST_ROWS).reverse());
  }
  changed.clear();
  arrived.clear();
  note(list);
}

function prepend(list, newest) {
  // The oldest closed rows make room for the new ones: an opened row stays as long as there is another one.
  const tooMany = list.children.length + newest.length - MOST_ROWS;
  if (tooMany > 0) {
    const isOpen = (element) => element.firstChild.getAttribute("aria-expanded") === "true";
    const oldest = [...list.children].reverse();
    for (const element of [...oldest.filter((one) => !isOpen(one)), ...oldest.filter(isOpen)].slice(0, tooMany)) {
      rows.delete(element.dataset.place);
      element.remove();
    }
  }
  const elements = newest.map(rowOf);
  if (elements.length <= MOST_ANIMATED) elements.forEach((element) => element.classList.add("fresh"));
  list.prepend(...elements);
}

const names = (field) => [...new Set([...events.values()].map((event) => event[field]).filter(Boolean))].sort().slice(0, 50);

function note(list) {
  const parts = [];
  if (paused) parts.push(behind ? `Paused: ${number(behind)} more came in the meantime.` : "Paused.");
  if (notShown) parts.push(`${number(notShown)} not shown: more come than can be read. Where is my event? finds them all.`);
  byId("live-note").textContent = parts.join(" ");
  const hint = byId("live-empty");
  hint.hidden = list.children.length > 0;
  if (hint.hidden) return;
  if (events.size) {
    empty(hint, "No event here fits these filters", `${number(events.size)} are here without them.`);
  } else {
    const url = document.querySelector('meta[name="api-url"]').content;
    const curl = `curl -X POST ${url}/api/v1/track -H 'Content-Type: application/json' -d '{"customer_id":"alice","event_type":"page_view"}'`;
    empty(hint, "Nothing yet", "Send an event, and it appears here within a moment:", make("code", {}, curl), make("p", {}, "Or click around in the ", make("a", { href: "/demo" }, "demo shop"), "."));
  }
}

function words(event) {
  if (event.state !== "stored") return STATES[event.state] ?? event.state;
  if (event.duplicate) return "stored before";
  return event.after_ms === null ? "stored" : `stored · ${event.after_ms < 10000 ? `${number(event.after_ms)} ms` : `${number(Math.round(event.after_ms / 1000))} s`}`;
}

function rowOf(event) {
  const state = make("span", { class: "cell state" });
  const button = make(
    "button",
    { class: "row live-grid", type: "button" },
    cell("time", clock(event.received_at ?? event.in_kafka_at), moment(event.received_at ?? event.in_kafka_at)),
    state,
    cell("type", event.event_type ?? "no event"),
    cell("name", event.event_name ?? "–"),
    cell("customer mono", event.customer_id ?? "–"),
    cell("source", event.source ?? "")
  );
  const detail = make("div", { class: "detail two" });
  const row = { state, detail, element: make("li", { "data-place": event.place }, button, detail), shown: null, text: undefined };
  opening(button, detail, () => open(row, event.place));
  rows.set(event.place, row);
  update(row, event);
  return row.element;
}

function update(row, event) {
  const said = words(event);
  if (row.shown !== said) {
    row.shown = said;
    row.state.replaceChildren(pill(event.state, said));
  }
  if (row.text !== undefined) fill(row, event);
}

async function open(row, place) {
  row.detail.replaceChildren(make("p", { class: "note" }, "Looking …"));
  try {
    const whole = await ask(`/api/events/${place}`);
    row.text = whole.hidden ? null : whole.value;
  } catch (error) {
    row.text = null;
    row.problem = error.message;
  }
  fill(row, events.get(place) ?? { place });
}

function fill(row, event) {
  const letter = event.letter && make("a", { href: "#/letters" }, `letter ${event.letter}`);
  const left = facts([
    ["event_id", event.event_id],
    ["customer_id", event.customer_id],
    ["accepted", event.received_at && moment(event.received_at)],
    ["in Kafka", `partition ${event.partition}, offset ${event.offset}, ${moment(event.in_kafka_at)}`],
    ["stored", event.stored_at && (event.duplicate ? `an event with this id, ${moment(event.stored_at)}` : moment(event.stored_at))],
    ["dead letter", letter],
    ["source", event.source],
    ["protocol", event.protocol],
  ]);
  const right = row.problem ?? (row.text === null ? "Contents are hidden (CONSOLE_SHOW_BODIES=false)." : null);
  row.detail.replaceChildren(left, right ? make("p", { class: "note" }, line(right)) : jsonText(row.text));
}
