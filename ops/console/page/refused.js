// What was refused: counts by reason and field; opened, the errors beside the body with the faulty field marked.

import { ask } from "./ask.js";
import { byId, cell, clock, copyable, empty, facts, line, make, moment, number, opening } from "./dom.js";
import { jsonText } from "./json_text.js";

let chosen = null; // reason and field
let last = "";

/** Ask, and show what has changed. */
export async function showRefused() {
  const note = byId("refused-note");
  let found;
  try {
    found = await ask("/api/refused");
  } catch (error) {
    note.textContent = error.message;
    note.classList.add("bad");
    return;
  }
  note.classList.toggle("bad", Boolean(found.problem));
  note.textContent = found.problem ? `This may be old: ${line(found.problem)}` : found.count ? `${number(found.count)} of the last 24 hours. Each worker keeps at most 10 per second.` : "";
  const now = JSON.stringify([found, chosen]);
  if (now === last) return;
  last = now;
  drawGroups(found.groups);
  const list = byId("refused");
  const open = new Set([...list.querySelectorAll('[aria-expanded="true"]')].map((row) => row.dataset.place));
  const matching = found.refused.filter((each) => !chosen || (each.reason === chosen.reason && each.fields.includes(chosen.field)));
  list.replaceChildren(...matching.map(rowOf));
  for (const row of list.querySelectorAll("button.row")) if (open.has(row.dataset.place)) row.click();
  const hint = byId("refused-empty");
  hint.hidden = matching.length > 0;
  if (!hint.hidden && chosen) empty(hint, "None of the newest has this fault");
  else if (!hint.hidden && !found.kept) empty(hint, "What is refused is not kept", "KAFKA_REFUSED_TOPIC is empty in the console's environment: set it there and for the API.");
  else if (!hint.hidden) empty(hint, "Nothing was refused", "An event that breaks a rule appears here with the fault and what to do about it. The ", make("p", {}, make("a", { href: "/demo" }, "demo shop"), " has a button for one."));
}

function drawGroups(groups) {
  byId("groups").replaceChildren(
    ...groups.slice(0, 40).map((group) => {
      const on = chosen?.reason === group.reason && chosen?.field === group.field;
      const choose = () => {
        chosen = on ? null : group;
        showRefused();
      };
      const text = group.field === "(request)" ? group.reason : `${group.reason}: ${group.field}`;
      return make("li", {}, make("button", { type: "button", "aria-pressed": String(on), on: { click: choose } }, make("span", {}, line(text)), make("b", {}, number(group.count))));
    })
  );
}

function rowOf(each) {
  const where = each.index === null || each.index === undefined ? each.route : `${each.route} [${each.index}]`;
  const row = make(
    "button",
    { class: "row refused-grid", type: "button", "data-place": line(each.place) },
    cell("time", clock(each.refused_at), moment(each.refused_at)),
    cell("mono", each.status),
    cell("", each.fields.join(", ")),
    cell("wide", each.message),
    cell("mono desk", where)
  );
  const detail = make("div", { class: "detail two" });
  opening(row, detail, () => detail.replaceChildren(...whole(each)));
  return make("li", {}, row, detail);
}

function* leaves(errors, path = "") {
  for (const [name, found] of Object.entries(errors ?? {})) {
    const here = path ? (/^\d+$/.test(name) ? `${path}[${name}]` : `${path}.${name}`) : name;
    if (Array.isArray(found)) for (const message of found) yield [here, message];
    else if (found && typeof found === "object") yield* leaves(found, here);
  }
}

function whole(each) {
  const found = [...leaves(each.errors)];
  const faults = found.length ? found.map(([path, message]) => make("li", {}, make("code", {}, line(path)), ` ${line(message)}`)) : [make("li", {}, line(each.message))];
  const left = make(
    "div",
    { class: "side" },
    make("div", { class: "part" }, make("h4", {}, "What is wrong"), make("ul", { class: "faults" }, ...faults)),
    make("p", { class: "remedy" }, line(each.remedy)),
    facts([
      ["request", each.request_id],
      ["route", each.route],
      ["in the batch", each.index === null || each.index === undefined ? null : `event ${each.index}`],
      ["source", each.source],
      ["protocol", each.protocol],
      ["origin", each.origin],
      ["sent by", each.user_agent],
      ["at", moment(each.refused_at)],
    ])
  );
  const right = make("div", { class: "side" });
  if (typeof each.body === "string") right.append(make("div", { class: "part" }, make("h4", {}, "What was sent"), jsonText(each.body, each.marks)));
  else right.append(make("p", { class: "note" }, "The body was not kept, or is hidden (API_REFUSED_BODIES, CONSOLE_SHOW_BODIES)."));
  if (each.curl) right.append(copyable("The request as curl", each.curl));
  return [left, right];
}
