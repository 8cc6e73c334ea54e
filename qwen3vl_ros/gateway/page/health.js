// Node, engine, model, queue and cameras at a glance, and a sentence for whatever is wrong.

import { byId, element, sentence } from "./elements.js";

const PERIOD = 1000; // ms

export class Health {
  #server;
  #announcer;
  #onStatus;
  #extra = new Map();
  #announced = "";

  /** `onStatus(status)` gets every status of Server.status. */
  constructor(server, announcer, onStatus) {
    this.#server = server;
    this.#announcer = announcer;
    this.#onStatus = onStatus;
  }

  /** Look now and from then on, while the page is visible. Returns after the first look. */
  async start() {
    await this.#look();
    setTimeout(() => this.#again(), PERIOD);
  }

  /** A problem of another part of the page; "" takes it back. */
  setProblem(part, problem) {
    this.#extra.set(part, problem);
  }

  async #again() {
    if (!document.hidden) await this.#look();
    setTimeout(() => this.#again(), PERIOD);
  }

  async #look() {
    let status;
    try {
      status = await this.#server.status();
    } catch (problem) {
      for (const part of ["node", "engine", "model", "queue", "camera"]) show(part, "unknown", "?");
      summarize("bad", "Not connected");
      this.#say([problem.message]);
      return;
    }
    this.#show(status);
    this.#onStatus(status);
  }

  #show(status) {
    const { node, state, message, engine, model, queue_length: queue, cameras } = status;
    const ready = node && ["ready", "busy"].includes(state);
    show("node", node ? "good" : "bad", node ? "there" : "missing");
    const level = ready ? "good" : state === "failed" ? "bad" : node ? "wait" : "unknown";
    show("engine", level, [engine, state].filter(Boolean).join(" · ") || "none");
    show("model", ready ? "good" : "unknown", model || "none");
    show("queue", "good", queue ? `${queue} waiting` : "empty");
    const broken = cameras.filter(({ problem }) => problem);
    const seen = cameras.filter(({ problem }) => !problem);
    show(
      "camera",
      broken.length ? "bad" : seen.length ? "good" : "unknown",
      cameras.map(cameraInWords).join(", ") || "none",
    );

    const words = ready ? readyInWords(status) : `Not ready: ${state === "absent" ? "no node" : state}`;
    summarize(ready && !broken.length ? "good" : level === "wait" ? "wait" : "bad", words);

    // What a node that answers says, such as why it took this engine and no other, is no problem.
    byId("remark").hidden = !(ready && message);
    byId("remark").querySelector("p").replaceChildren(...sentence(message));

    byId("demonstration").hidden = !status.model_card.demonstration;
    byId("demonstration").querySelector("span").textContent = status.model_card.domain;

    const sentences = [];
    if (!node) sentences.push(`The node is missing: ${message}. Start it: \`qwen3vl-ros node\``);
    else if (!ready) sentences.push(stateInWords(state, message));
    sentences.push(...broken.map(({ name, problem }) => `Camera ${name}: ${problem}`));
    this.#say([...sentences, ...[...this.#extra.values()].filter(Boolean)]);
  }

  #say(sentences) {
    byId("problems").replaceChildren(...sentences.map((problem) => element("p", {}, ...sentence(problem))));
    const withoutNumbers = sentences.join("\n").replace(/\d+(\.\d+)?/g, "#"); // a growing age is no news
    if (withoutNumbers !== this.#announced) this.#announcer.say(sentences.join("\n") || "All is well again.");
    this.#announced = withoutNumbers;
  }
}

/** The strip on one line. */
function summarize(level, words) {
  const summary = byId("status").querySelector("summary");
  summary.dataset.level = level;
  if (summary.textContent !== words) summary.textContent = words;
}

function readyInWords({ state, model, queue_length: queue, cameras }) {
  const waiting = queue ? `, ${queue} more ${queue === 1 ? "waits" : "wait"}` : "";
  const does = state === "busy" ? `${model} is answering${waiting}` : `Ready: ${model} answers`;
  const still = cameras.filter(({ problem }) => problem).map(({ name }) => name);
  if (still.length) return `${does}, but no image comes from camera ${still.join(", ")}`;
  return `${does}, about ${cameras.length ? `camera ${cameras.map(cameraInWords).join(", ")}` : "images of yours"}`;
}

function show(part, level, text) {
  const place = byId(`health-${part}`);
  place.dataset.level = level;
  const value = place.querySelector("dd");
  if (value.textContent !== text) value.textContent = text;
}

function cameraInWords({ name, rate, problem }) {
  if (rate) return `${name} ${rate.toFixed(rate < 10 ? 1 : 0)} Hz`;
  return problem ? `${name} no frame` : name;
}

function stateInWords(state, message) {
  const why = message ? ` ${message}` : "";
  if (state === "loading") return `The engine is loading its model; questions wait for it.${why}`;
  if (state === "failed") return `The engine cannot answer; it is tried again.${why}`;
  if (state === "inactive") return `The node is loaded but inactive. Activate it to ask: qwen3vl-ros lifecycle activate.${why}`;
  return `No engine is loaded.${why}`;
}
