// What the gateway offers, as functions. Addresses are relative: the page also works below a path of a proxy.

import { eventData } from "./sse.js";

const TOKEN_KEY = "qwen3vl_ros.token";

/** Something went wrong; the message is a sentence for the user. */
export class Problem extends Error {}

/** The token that a QR code put behind the address's #, which no server sees; it is kept and taken off the address. */
function tokenOfAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return null;
  sessionStorage.setItem(TOKEN_KEY, token);
  history.replaceState(null, "", location.pathname + location.search);
  return token;
}

export class Server {
  #token = tokenOfAddress() ?? sessionStorage.getItem(TOKEN_KEY) ?? "";
  #askForToken;
  #tokenWanted = null;

  /** `askForToken(wrong)` resolves to the token that the user gives; `wrong`: the last one was refused. */
  constructor(askForToken) {
    this.#askForToken = askForToken;
  }

  /** State of node, engine, queue and cameras: docs/gateway.md, /api/status. */
  status() {
    return this.#json("api/status");
  }

  /** The ready-made tasks: name, description, main, slots, min_images, parser. */
  tasks() {
    return this.#json("api/tasks");
  }

  /**
   * The newest frame: JPEG at most `width` wide, its stamp in seconds (text, to compare), its size on the camera, and
   * its `age` in seconds when it was `received` (performance.now()). The age is the robot's: clocks may differ.
   */
  async frame(camera, width, signal) {
    const path = `api/cameras/${encodeURIComponent(camera)}/frame.jpg?width=${width}`;
    const response = await this.#request(path, { signal });
    const received = performance.now();
    const [originalWidth, originalHeight] = response.headers.get("X-Frame-Size").split("x").map(Number);
    return {
      jpeg: await response.blob(),
      stamp: response.headers.get("X-Frame-Stamp"),
      age: Number(response.headers.get("X-Frame-Age")),
      received,
      width: originalWidth,
      height: originalHeight,
    };
  }

  /**
   * Ask, and yield {stage, queue_position} and {delta, reasoning} as they come; returns
   * {finishReason, usage, extra}, `extra` being the answer's qwen3vl_ros object. Aborting `signal` cancels.
   */
  async *ask(question, signal) {
    const body = { model: "", stream: true, stream_options: { include_usage: true }, ...question };
    const response = await this.#request("v1/chat/completions", { ...posted(body), signal });
    const answer = { finishReason: "", usage: null, extra: {} };
    for await (const data of eventData(response.body)) {
      if (data === "[DONE]") return answer;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Problem(chunk.error.message);
      const choice = chunk.choices?.[0];
      if (chunk.qwen3vl_ros?.stage) yield chunk.qwen3vl_ros;
      else if (chunk.qwen3vl_ros) answer.extra = chunk.qwen3vl_ros;
      const { content: delta = "", reasoning_content: reasoning = "" } = choice?.delta ?? {};
      if (delta || reasoning) yield { delta, reasoning };
      answer.finishReason = choice?.finish_reason ?? answer.finishReason;
      answer.usage = chunk.usage ?? answer.usage;
    }
    throw new Problem("The connection to the gateway ended before the answer did: ask again.");
  }

  /** The node's watches, and their last events, the newest first: docs/gateway.md, /api/watches. */
  watches() {
    return this.#json("api/watches");
  }

  /** Have the node watch something. */
  addWatch(fields) {
    return this.#json("api/watches", posted(fields));
  }

  /** End a watch. */
  removeWatch(id) {
    return this.#json(`api/watches/${encodeURIComponent(id)}`, { method: "DELETE" });
  }

  /** Let a watch go on without events, or with them again. */
  muteWatch(id, muted) {
    return this.#json(`api/watches/${encodeURIComponent(id)}/mute?muted=${muted}`, { method: "POST" });
  }

  /** A JPEG of an event. */
  async eventImage(number, name) {
    return (await this.#request(`api/watch_events/${number}/${name}.jpg`)).blob();
  }

  /** An answer's Markdown as HTML in which nothing can run. */
  async html(text) {
    return (await this.#json("api/render", posted({ text }))).html;
  }

  /** Write into the node's recording what would have been the right answer. Throws Problem. */
  async correct(goalId, text) {
    await this.#json("api/corrections", posted({ goal_id: goalId, text }));
  }

  async #json(path, options) {
    return (await this.#request(path, options)).json();
  }

  /** A successful response, asking for a token as often as it takes. Throws Problem. */
  async #request(path, options = {}) {
    for (;;) {
      const token = this.#token;
      const headers = token ? { ...options.headers, Authorization: `Bearer ${token}` } : options.headers;
      const response = await fetch(path, { ...options, headers }).catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new Problem("The gateway does not answer: is the node web still running, and reachable from here?");
      });
      if (response.ok) return response;
      if (response.status !== 401) throw new Problem(await sentenceOf(response));
      if (token === this.#token) await this.#newToken(token !== "", options.signal);
    }
  }

  /** Ask the user once, however many requests wait for the token. */
  async #newToken(wrong, signal) {
    this.#tokenWanted ??= this.#askForToken(wrong).then((token) => {
      this.#token = token;
      this.#tokenWanted = null;
      sessionStorage.setItem(TOKEN_KEY, token);
    });
    await Promise.race([this.#tokenWanted, aborted(signal)]);
  }
}

const posted = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

async function sentenceOf(response) {
  const after = Number(response.headers.get("Retry-After"));
  const again = after ? ` Try again in ${after} s.` : "";
  const body = await response.json().catch(() => null); // a proxy's error page is no JSON
  const reason = body?.error?.message ?? `The gateway answered ${response.status} ${response.statusText}.`;
  return reason + (again && !/[.!?]$/.test(reason) ? "." : "") + again;
}

function aborted(signal) {
  return new Promise((_, reject) => {
    signal?.throwIfAborted();
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
