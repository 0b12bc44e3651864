// The server's HTTP API. A token comes in the address, after #, and stays in this tab.

const KEY = "srtool-token";
const POLL = 300; // milliseconds

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return;
  sessionStorage.setItem(KEY, given);
  history.replaceState(null, "", location.pathname);
}

export function useToken(token) {
  sessionStorage.setItem(KEY, token.trim());
}

export async function models() {
  return (await ask("v1/models")).json();
}

/** Upscale one file: {blob, size, notes}. report gets {stage, before, done, total}. */
export async function upscale(file, parameters, report, signal) {
  const id = newId();
  const query = new URLSearchParams({ ...parameters, name: file.name, id });
  const stop = new AbortController();
  watch(id, report, stop.signal);
  try {
    const answer = await askPatiently(`v1/upscale?${query}`, { method: "POST", body: file, signal });
    const notes = decodeURIComponent(answer.headers.get("X-Srtool-Notes") ?? "");
    const size = answer.headers.get("X-Srtool-Size").split("x").map(Number);
    return { blob: await answer.blob(), size, notes };
  } finally {
    stop.abort();
  }
}

async function watch(id, report, signal) {
  while (!signal.aborted) {
    await new Promise((wake) => setTimeout(wake, POLL));
    try {
      const answer = await ask(`v1/progress/${id}`, { signal });
      const progress = await answer.json();
      if (!signal.aborted) report(progress);
    } catch {
      // whoever sent the picture hears of it
    }
  }
}

// A full queue is no failure: the server says when to come again.
async function askPatiently(path, options) {
  for (;;) {
    try {
      return await ask(path, options);
    } catch (error) {
      if (error.status !== 429) throw error;
      await new Promise((wake) => setTimeout(wake, 1000 * (error.retryAfter || 1)));
      options.signal.throwIfAborted();
    }
  }
}

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  let detail = `the server answered ${answer.status}`;
  try {
    detail = (await answer.json()).detail;
  } catch {
    // not in words
  }
  const refused = new Refused(answer.status, detail);
  refused.retryAfter = Number(answer.headers.get("Retry-After"));
  throw refused;
}

// crypto.randomUUID is for https and this machine only
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
}
