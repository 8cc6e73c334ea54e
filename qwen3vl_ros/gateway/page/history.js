// Conversations of this tab, also after a reload, the newest first. asking.js says what is in them.

import { byId, element } from "./elements.js";

const KEY = "qwen3vl_ros.history";
const MOST = 20; // conversations
const ROOM = 4_000_000; // characters; browsers give a tab about 5 million

export class History {
  // A tab may be older than this page, and so may what it stored: a conversation without images is not of this form.
  #conversations = JSON.parse(sessionStorage.getItem(KEY) ?? "[]").filter(({ images }) => images);
  #onOpen;
  #current = null;

  /** `onOpen(conversation)`: the user wants to go on with it. */
  constructor(onOpen) {
    this.#onOpen = onOpen;
    byId("forget").addEventListener("click", () => {
      this.#conversations = [];
      this.#store();
    });
    this.#show();
  }

  /** A conversation got an answer. */
  add(conversation) {
    this.#conversations = [conversation, ...this.#conversations.filter(({ id }) => id !== conversation.id)];
    this.#store();
  }

  /** The conversation that is on the screen, null for none: it needs no place among the earlier ones. */
  setCurrent(conversation) {
    this.#current = conversation;
    this.#show();
  }

  #store() {
    let text = JSON.stringify(this.#conversations);
    while (this.#conversations.length > MOST || (text.length > ROOM && this.#conversations.length)) {
      // A long conversation about a camera has many images: rather lose its oldest ones than all of it.
      const oldest = this.#conversations.length === 1 && this.#conversations[0].turns.find(({ image }) => image);
      if (oldest) oldest.image = null;
      else this.#conversations.pop();
      text = JSON.stringify(this.#conversations);
    }
    sessionStorage.setItem(KEY, text);
    this.#show();
  }

  #show() {
    const earlier = this.#conversations.filter(({ id }) => id !== this.#current?.id);
    byId("past").hidden = earlier.length === 0;
    byId("past")
      .querySelector("ul")
      .replaceChildren(...earlier.map((conversation) => this.#entry(conversation)));
  }

  #entry(conversation) {
    const { images, turns } = conversation;
    const last = turns.at(-1);
    const image = last.image ?? images.at(-1);
    const button = element(
      "button",
      { type: "button" },
      element("img", image ? { src: image.url, alt: "" } : { alt: "" }),
      element("span", { className: "question" }, turns[0].title),
      element("span", { className: "answer" }, last.answer.text || last.problem || "Stopped."),
    );
    button.addEventListener("click", () => this.#onOpen(conversation));
    return element("li", {}, button);
  }
}
