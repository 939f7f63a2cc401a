// Asking the console's server.

let token = document.querySelector('meta[name="csrf-token"]').content;

/** The JSON of an answer; throws an Error that says what is wrong. */
export async function ask(path, { method = "GET", body } = {}) {
  let answer = await send(path, method, body);
  if (answer.status === 403 && method !== "GET") {
    // The console was restarted, so the token has changed.
    const page = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
    token = page.querySelector('meta[name="csrf-token"]')?.content ?? token;
    answer = await send(path, method, body);
  }
  const text = await answer.text();
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new Error(`The console answered ${answer.status}.`);
  }
  if (!answer.ok) throw new Error(found.message ?? `The console answered ${answer.status}.`);
  return found;
}

async function send(path, method, body) {
  const headers = method === "GET" ? {} : { "X-CSRF-Token": token };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal: AbortSignal.timeout(30000) });
  } catch {
    throw new Error("The console does not answer: is it running?");
  }
}
