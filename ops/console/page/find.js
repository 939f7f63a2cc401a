// Where is my event? Every place it is in, in the order of time.

import { ask } from "./ask.js";
import { byId, line, make, moment, pill } from "./dom.js";

const STATES = { accepted: "accepted", in_kafka: "in Kafka", stored: "stored", dead_letter: "dead letter", refused: "refused", unknown: "never seen" };
let asked = 0;

/** Ask for an event_id or a customer_id, and show what is known. */
export async function find(wanted) {
  const note = byId("find-note");
  const more = byId("find-more");
  const mine = ++asked;
  note.classList.remove("bad");
  note.textContent = `Looking for ${line(wanted)} …`;
  byId("places").replaceChildren();
  more.replaceChildren();
  let found;
  try {
    found = await ask(`/api/find?q=${encodeURIComponent(wanted)}`);
  } catch (error) {
    if (mine === asked) {
      note.textContent = error.message;
      note.classList.add("bad");
    }
    return;
  }
  if (mine !== asked) return;
  const unasked = Object.entries(found.unasked);
  const known = found.places.filter((place) => place.state !== "unknown");
  if (known.length) note.textContent = `${line(found.q)}: ${summary(known)}.`;
  else if (unasked.length) note.textContent = `${line(found.q)} was not found, but it may exist: see below.`;
  else note.textContent = `${line(found.q)} was never seen here.`;
  byId("places").replaceChildren(...known.map(placeOf));
  for (const [, why] of unasked) more.append(make("p", { class: "note bad" }, line(why)));
  if (!known.length && found.reasons.length) {
    more.append(make("h3", {}, "The usual reasons"), make("ul", { class: "reasons" }, ...found.reasons.map((reason) => make("li", {}, reason))));
  }
}

/** How many events are in which state, each by the furthest of its places. */
function summary(places) {
  const order = ["refused", "accepted", "in_kafka", "dead_letter", "stored"];
  const at = (place) => `${place.partition}-${place.offset}`;
  const ids = new Map(places.filter((place) => place.state === "in_kafka").map((place) => [at(place), place.event_id]));
  const furthest = new Map();
  places.forEach((place, number) => {
    const event = place.state === "refused" ? `refused ${number}` : place.event_id ?? ids.get(at(place)) ?? at(place);
    const before = furthest.get(event);
    if (!before || order.indexOf(place.state) > order.indexOf(before)) furthest.set(event, place.state);
  });
  const states = [...furthest.values()];
  const counts = order.map((state) => [state, states.filter((one) => one === state).length]).filter(([, count]) => count);
  return counts.length === 1 && states.length === 1 ? STATES[states[0]] : counts.reverse().map(([state, count]) => `${count} ${STATES[state]}`).join(", ");
}

function placeOf(place) {
  const what = [place.event_name ?? place.event_type, place.event_id, place.customer_id].filter(Boolean).map(line).join(" · ");
  const where = place.state === "in_kafka" ? `partition ${place.partition}, offset ${place.offset}` : place.state === "dead_letter" ? `letter ${place.letter}, ${place.reason}${place.replayed_at ? `, sent back ${moment(place.replayed_at)}` : ""}` : place.state === "refused" ? `${place.status}: ${place.message}` : "";
  return make("li", { class: place.state }, pill(place.state, STATES[place.state]), make("span", { class: "faint" }, place.at ? ` ${moment(place.at)}` : ""), where ? make("p", {}, line(where)) : null, what ? make("p", { class: "mono faint" }, what) : null);
}
