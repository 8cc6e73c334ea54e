// Earlier conversations, the newest first: kept by store.js, found again by their words. asking.js says what is in one.

import { byId, element } from "./elements.js";
import { resultInWords } from "./result.js";
import { Store } from "./store.js";

const MOST = 200; // conversations
const PERIOD = 1000; // ms between two savings of an answer that is being written
const RUNNING_KEY = "qwen3vl_ros.running"; // of this tab: the conversation with a question that is not answered yet

export class History {
  #store = new Store();
  #conversations = [];
  #onOpen;
  #current = null;
  #timer = 0; // of the next saving
  #kept = ""; // why nothing is, or ""
  #sure = false; // whether a click more forgets all

  /** `onOpen(conversation)`: the user wants to go on with it. */
  constructor(onOpen) {
    this.#onOpen = onOpen;
    byId("history").addEventListener("click", () => {
      this.#show();
      byId("past").showModal();
    });
    byId("search").addEventListener("input", () => this.#show());
    byId("past-close").addEventListener("click", () => byId("past").close());
    byId("past").addEventListener("close", () => this.#doubt());
    byId("export").addEventListener("click", () => this.#export());
    byId("forget").addEventListener("click", () => {
      if (this.#sure) this.#forgetAll();
      else this.#doubt("Really forget all?");
    });
  }

  /**
   * Read what is kept. Returns the conversation that this tab was in when it was reloaded before the answer was
   * complete; null for none.
   */
  async load() {
    try {
      this.#conversations = (await this.#store.all()).toSorted((one, other) => other.changed - one.changed);
    } catch (error) {
      this.#kept = `This browser keeps nothing here (${error.name}): the history goes with this tab.`;
    }
    for (const { turns } of this.#conversations) turns.forEach(endInterrupted);
    const running = Number(sessionStorage.getItem(RUNNING_KEY));
    sessionStorage.removeItem(RUNNING_KEY);
    return this.#conversations.find(({ id }) => id === running) ?? null;
  }

  /** A conversation got a question. */
  begin(conversation) {
    sessionStorage.setItem(RUNNING_KEY, conversation.id);
    this.#conversations = [conversation, ...this.#conversations.filter(({ id }) => id !== conversation.id)];
    this.#save(conversation);
    for (const { id } of this.#conversations.splice(MOST)) this.#store.delete(id).catch(() => {});
  }

  /** More of the answer has come. */
  progress(conversation) {
    this.#timer ||= setTimeout(() => this.#save(conversation), PERIOD);
  }

  /** The answer is complete, or never will be. */
  end(conversation) {
    sessionStorage.removeItem(RUNNING_KEY);
    this.#save(conversation);
  }

  /** The conversation that is on the screen, null for none. */
  setCurrent(conversation) {
    this.#current = conversation;
  }

  async #save(conversation) {
    clearTimeout(this.#timer);
    this.#timer = 0;
    conversation.changed = Date.now();
    try {
      await this.#store.put(conversation);
      this.#kept = "";
    } catch (error) {
      const oldest = this.#conversations.at(-1);
      if (error.name === "QuotaExceededError" && oldest !== conversation) {
        this.#conversations.pop();
        await this.#store.delete(oldest.id);
        await this.#save(conversation);
      } else this.#kept = `This browser did not keep the last conversation (${error.name}).`;
    }
  }

  async #forget(conversation) {
    this.#conversations = this.#conversations.filter((other) => other !== conversation);
    this.#show();
    await this.#store.delete(conversation.id).catch(() => {});
  }

  /** Ask whether all is to be forgotten; without a question, do not ask any more. */
  #doubt(question) {
    this.#sure = Boolean(question);
    byId("forget").textContent = question ?? "Forget all";
  }

  async #forgetAll() {
    this.#doubt();
    this.#conversations = [];
    this.#show();
    await this.#store.clear().catch(() => {});
  }

  /** Hand all conversations over as a JSON file, as asking.js describes them. */
  #export() {
    const file = new Blob([JSON.stringify(this.#conversations, null, 2)], { type: "application/json" });
    const url = URL.createObjectURL(file);
    const date = new Date().toISOString().slice(0, 10);
    element("a", { href: url, download: `qwen3vl_ros-${date}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  #show() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.#conversations.filter((conversation) => {
      const text = textOf(conversation);
      return words.every((word) => text.includes(word));
    });
    const nothing = this.#conversations.length ? "Nothing has these words." : "Nothing was asked yet.";
    byId("past-note").textContent = [this.#kept, found.length ? "" : nothing].filter(Boolean).join(" ");
    for (const id of ["export", "forget"]) byId(id).disabled = !this.#conversations.length;
    byId("past").querySelector("ul").replaceChildren(...found.map((conversation) => this.#entry(conversation)));
  }

  #entry(conversation) {
    const { images, turns } = conversation;
    const last = turns.at(-1);
    const image = turns.findLast((turn) => turn.image)?.image ?? images.at(-1);
    const open = element(
      "button",
      { type: "button", className: "open" },
      element("img", image ? { src: image.url, alt: "" } : { alt: "" }),
      element("span", { className: "question" }, turns[0].title),
      element("span", { className: "answer" }, resultInWords(last) || last.problem || "Stopped."),
    );
    if (conversation === this.#current) open.setAttribute("aria-current", "true");
    open.addEventListener("click", () => {
      byId("past").close();
      this.#onOpen(conversation);
    });
    const remove = element("button", { type: "button", className: "remove", title: "Forget this conversation" }, "×");
    remove.setAttribute("aria-label", `Forget: ${turns[0].title}`);
    remove.addEventListener("click", () => this.#forget(conversation));
    return element("li", {}, open, remove);
  }
}

/** A turn whose answer was being written when its page went: what came stays. */
function endInterrupted(turn) {
  if (turn.stage === null) return;
  turn.stage = null;
  turn.problem = "The page was closed or reloaded before the answer was complete.";
}

function textOf({ turns }) {
  return turns.map(({ title, answer }) => `${title}\n${answer.text}`).join("\n").toLowerCase();
}
