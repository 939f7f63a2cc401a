// Puts the page's parts together: tabs, the search, the state of the connection.

import { byId } from "./dom.js";
import { find } from "./find.js";
import { startFlow } from "./flow.js";
import { showLetters, watchReplay } from "./letters.js";
import { startLive } from "./live.js";
import { showRefused } from "./refused.js";

const tabs = [...document.querySelectorAll('[role="tab"]')];
const shows = { refused: showRefused, letters: showLetters };
let current = "live";

function show(name) {
  current = name;
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !chosen;
    if (chosen) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  shows[name]?.();
}

function follow() {
  const [name, query] = location.hash.replace(/^#\/?/, "").split("?");
  const known = tabs.some((tab) => tab.id === `tab-${name}`);
  show(known ? name : "live");
  const wanted = name === "find" && new URLSearchParams(query).get("q");
  if (wanted) {
    byId("q").value = wanted;
    find(wanted);
  }
}

for (const [n, tab] of tabs.entries()) {
  tab.addEventListener("click", () => (location.hash = tab.id.replace("tab-", "/")));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step ? tabs.at((n + step) % tabs.length) : { Home: tabs[0], End: tabs.at(-1) }[event.key];
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.click();
  });
}
addEventListener("hashchange", follow);
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = byId("q").value.trim();
  if (!wanted) return byId("q").focus();
  const hash = `#/find?q=${encodeURIComponent(wanted)}`;
  if (location.hash === hash) find(wanted);
  else location.hash = hash;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
    event.preventDefault();
    byId("q").focus();
  }
});

let streams = false;
let answers = true;
function connected() {
  const element = byId("connection");
  element.classList.toggle("on", streams && answers);
  element.classList.toggle("off", !streams || !answers);
  const said = !answers ? "the console does not answer: is it running? what is below may be old" : !streams ? "not live: connecting again …" : "live";
  if (element.textContent !== said) element.textContent = said;
}

startLive((runs) => {
  streams = runs;
  connected();
});
const count = (element, value) => (element.textContent = value ? (value > 999 ? "999+" : String(value)) : "");
startFlow((flow) => {
  answers = flow !== null;
  connected();
  if (!flow) return;
  count(byId("refused-count"), flow.refused.lately);
  count(byId("letters-count"), flow.dead_letters.waiting);
  shows[current]?.();
});
// Where there is little room, filters are folded away.
const roomy = matchMedia("(min-width: 760px)");
const fold = () => document.querySelectorAll(".fold").forEach((details) => (details.open = roomy.matches));
roomy.addEventListener("change", fold);
fold();
follow();
watchReplay();
