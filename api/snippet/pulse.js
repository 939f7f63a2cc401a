// The browser snippet, readable. docs/snippet.md says how pages use it; `make snippet` makes pulse.min.js, which the API
// serves as /pulse.js, from this file.
(() => {
  const pulse = (window.pulse = Array.isArray(window.pulse) ? window.pulse : []);
  // Two tags on a page are one.
  if (pulse.loaded) return;
  pulse.loaded = true;

  const { src, dataset } = document.currentScript;
  const url = new URL("v1/batch", src);
  if (dataset.key) url.searchParams.set("key", dataset.key);

  const PREFIX = "pulse.js:";
  const EVENT = "event:";
  const SESSION_MINUTES = 30;
  const MOST_EVENTS = 500;
  const MOST_CHARACTERS = 250000;
  // Browsers let requests of a page that is left have 64 KiB in all.
  const BATCH_BYTES = 50000;
  const BATCH_EVENTS = 100;
  const TIMEOUT_SECONDS = 30;
  const LONGEST_PAUSE_SECONDS = 60;
  const SETTLE_MS = 50;

  const optedOut = () => navigator.globalPrivacyControl || [navigator.doNotTrack, window.doNotTrack].includes("1");
  const warn = (...what) => console.warn("pulse:", ...what);
  const bytes = (text) => new Blob([text]).size;
  // crypto.randomUUID is there on https only.
  const random = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => (byte + 256).toString(16).slice(1)).join("");

  // ── What is kept: in localStorage, or in memory where that is full or forbidden ──

  const memory = {};
  const disk = (work) => {
    try {
      return work(localStorage);
    } catch {
      // Forbidden, or full.
    }
  };
  const read = (name) => memory[name] ?? disk((storage) => storage.getItem(PREFIX + name));
  const write = (name, value) => {
    delete memory[name];
    disk((storage) => {
      storage.setItem(PREFIX + name, value);
      return true;
    }) || (memory[name] = String(value));
  };
  const remove = (name) => {
    delete memory[name];
    disk((storage) => storage.removeItem(PREFIX + name));
  };
  const names = () => {
    const kept = disk(Object.keys) || [];
    const ours = kept.filter((key) => key.startsWith(PREFIX)).map((key) => key.slice(PREFIX.length));
    return [...new Set([...ours, ...Object.keys(memory)])];
  };
  const forget = () => names().forEach(remove);

  // ── The queue: an item of localStorage for each event, so that tabs do not write over each other's ──

  // Their names begin with the time: the order of the names is that of the events.
  const events = () => names().filter((name) => name.startsWith(EVENT)).sort();
  // What this page has recorded, until it was answered or given to a beacon.
  const own = new Set();
  let count = 0;

  const record = (type, fields) => {
    if (optedOut()) return forget();
    const now = Date.now();
    let [session, last] = (read("session") || "").split(" ");
    if (!(now - last < SESSION_MINUTES * 60000)) session = random();
    write("session", session + " " + now);
    const anonymousId = read("anonymous") || random();
    write("anonymous", anonymousId);
    const messageId = now.toString(36) + (count++).toString(36).padStart(4, "0") + random();
    const name = EVENT + messageId;
    const userId = read("user") || undefined;
    const timestamp = new Date(now).toISOString();
    const event = { type, messageId, timestamp, anonymousId, userId, ...fields, context: { session_id: session } };
    write(name, JSON.stringify(event));
    own.add(name);
    bound();
    send();
  };

  const bound = () => {
    const waiting = events();
    let characters = waiting.reduce((sum, name) => sum + read(name).length, 0);
    while (waiting.length > MOST_EVENTS || characters > MOST_CHARACTERS) {
      const oldest = waiting.shift();
      characters -= read(oldest).length;
      remove(oldest);
      warn("too many events wait; the oldest was dropped");
    }
  };

  // ── Sending: by one tab at a time, again until it is answered ──

  let timer;
  let wanted = false;
  let flying = [];
  let mostEvents = BATCH_EVENTS;
  let failures = 0;
  let notBefore = 0;
  let turn = Promise.resolve();

  const next = (among) => {
    const batch = [];
    let size = 0;
    for (const name of among) {
      size += bytes(read(name) || "");
      if (batch.length && (batch.length >= mostEvents || size > BATCH_BYTES)) break;
      batch.push(name);
    }
    return batch;
  };
  const body = (batch) => `{"sentAt":"${new Date().toISOString()}","batch":[${batch.map(read)}]}`;
  const done = (name) => {
    remove(name);
    own.delete(name);
  };

  const send = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (wanted) return;
      wanted = true;
      turn = turn.then(() => navigator.locks?.request(PREFIX, drain).catch(drain) ?? drain());
    }, Math.max(0, notBefore - performance.now()));
  };

  const drain = async () => {
    wanted = false;
    for (let batch; (batch = next(events())).length; ) {
      if (optedOut()) return forget();
      if (performance.now() < notBefore) return send();
      const text = body(batch);
      flying = batch;
      try {
        const answer = await fetch(url, {
          method: "POST",
          body: text,
          credentials: "omit",
          // It goes on when the page is left.
          keepalive: bytes(text) < BATCH_BYTES + 10000,
          signal: AbortSignal.timeout?.(TIMEOUT_SECONDS * 1000),
        });
        // Only these can be no better next time.
        const refused = answer.status == 400 || (answer.status == 413 && batch.length < 2);
        if (!answer.ok && !refused) throw answer;
        const said = await answer.json();
        if (refused || said.rejected) warn("refused", said.rejected || said.message);
        batch.forEach(done);
        mostEvents = BATCH_EVENTS;
        failures = 0;
      } catch (error) {
        warn("not answered, so it will be sent again", error.status || error.message);
        if (error.status == 413) mostEvents = Math.ceil(batch.length / 2);
        const seconds = Math.min(LONGEST_PAUSE_SECONDS, 2 ** failures++) * (0.5 + Math.random() / 2);
        notBefore = performance.now() + Math.max(seconds, +error.headers?.get("Retry-After") || 0) * 1000;
        return send();
      } finally {
        flying = [];
      }
      // Other tabs see a moment later what was removed; until then it is still our turn.
      await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    }
  };

  const leave = () => {
    page();
    const batch = next(events().filter((name) => own.has(name) && !flying.includes(name)));
    // It gets no answer, so all of it stays in the queue. The fetch under way goes on by itself.
    if (batch.length && navigator.sendBeacon(url, body(batch))) batch.forEach((name) => own.delete(name));
  };

  // ── What is recorded ──

  // With the routes of pages that have them behind a #, without queries, which hold secrets now and then.
  const path = () => location.pathname + (/^#!?\//.test(location.hash) ? location.hash : "");
  const withoutQuery = (address) => address.replace(/[?#].*/, "");
  let here;
  let referrer = withoutQuery(document.referrer);

  const page = (later) => {
    const place = path() + location.search;
    if (place == here || document.prerendering) return;
    here = place;
    const properties = { path: path(), title: "", referrer, screen: `${screen.width}x${screen.height}` };
    referrer = location.origin + path();
    const view = () => record("page", { properties: { ...properties, title: document.title } });
    // A page that changes its address changes its title a moment later.
    later ? setTimeout(view) : view();
  };

  const methods = {
    track: (name, properties) => record("track", { event: name, properties }),
    identify: (user, traits) => {
      if (user || user === 0) write("user", user);
      record("identify", { traits });
    },
    reset: () => ["anonymous", "session", "user"].forEach(remove),
  };
  const call = (told) => {
    try {
      const [name, ...values] = told;
      optedOut() ? forget() : methods[name](...values);
    } catch (error) {
      warn("not recorded", told, error);
    }
  };

  if (optedOut()) forget();
  for (const name in methods) pulse[name] = (...values) => call([name, ...values]);
  pulse.push = (...calls) => calls.forEach(call);
  pulse.splice(0).forEach(call);

  for (const name of ["pushState", "replaceState"]) {
    const change = history[name];
    history[name] = (...values) => {
      change.apply(history, values);
      page(true);
    };
  }
  for (const name of ["popstate", "hashchange"]) addEventListener(name, page);
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    here = "";
    page();
  });
  addEventListener("click", (event) => {
    const element = event.composedPath().find((node) => node.dataset?.pulse);
    if (element) record("click", { event: element.dataset.pulse, properties: { path: path() } });
  }, true);
  addEventListener("online", () => {
    notBefore = 0;
    send();
  });
  addEventListener("pagehide", leave);
  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : send()));
  document.addEventListener("prerenderingchange", page);
  document.readyState == "loading" ? addEventListener("DOMContentLoaded", () => page()) : page();
})();
