// Reads an answer to screen readers while it is written: whole words, and not more often than one can listen.

const PERIOD = 2500; // ms
const KEPT = 6; // announcements that stay in the document: readers need the newest only

export class Announcer {
  #region;
  #waiting = "";
  #timer = 0;

  constructor(region) {
    this.#region = region;
  }

  /** More of the answer. */
  add(delta) {
    this.#waiting += delta;
    this.#timer ||= setTimeout(() => this.#sayWords(), PERIOD);
  }

  /** Say what is left, then `sentence`. */
  finish(sentence) {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.say(`${this.#waiting}\n${sentence}`);
    this.#waiting = "";
  }

  /** Say something now. */
  say(text) {
    if (!text.trim()) return;
    const line = document.createElement("p");
    line.textContent = text.trim();
    this.#region.append(line);
    while (this.#region.childElementCount > KEPT) this.#region.firstElementChild.remove();
  }

  #sayWords() {
    this.#timer = 0;
    const end = this.#waiting.search(/\s\S*$/); // the last word may go on
    if (end < 1) return;
    this.say(this.#waiting.slice(0, end));
    this.#waiting = this.#waiting.slice(end);
  }
}
