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
  if (known.length) note.textContent = `${line(found.q)}: ${STATES[found.state]}.`;
  else if (unasked.length) note.textContent = `${line(found.q)} was not found, and not everybody could be asked: it may well be there.`;
  else note.textContent = `${line(found.q)} was never seen here.`;
  byId("places").replaceChildren(...known.map(placeOf));
  for (const [who, why] of unasked) more.append(make("p", { class: "note bad" }, line(`${who} could not be asked: ${why}`)));
  if (!known.length && found.reasons.length) {
    more.append(make("h3", {}, "The usual reasons"), make("ul", { class: "reasons" }, ...found.reasons.map((reason) => make("li", {}, reason))));
  }
}

function placeOf(place) {
  const what = [place.event_name ?? place.event_type, place.event_id, place.customer_id].filter(Boolean).map(line).join(" · ");
  const where = place.state === "in_kafka" ? `partition ${place.partition}, offset ${place.offset}` : place.state === "dead_letter" ? `letter ${place.letter}, ${place.reason}${place.replayed_at ? `, sent back ${moment(place.replayed_at)}` : ""}` : place.state === "refused" ? `${place.status}: ${place.message}` : "";
  return make("li", { class: place.state }, pill(place.state, STATES[place.state]), make("span", { class: "faint" }, ` ${moment(place.at)}`), where ? make("p", {}, line(where)) : null, what ? make("p", { class: "mono faint" }, what) : null);
}
