// An answer's Markdown on the screen. The gateway renders it, each time that lines have come; the words of the line
// that is being written stand behind it as they are, in the same letters, so that nothing moves when it is rendered.

import { copyButton } from "./copy.js";
import { element, setCleanHtml } from "./elements.js";
import { Problem } from "./server.js";

const PERIOD = 300; // ms between two renderings
const SHARE = 10; // a rendering that takes long is followed by a pause this many times as long
const GOES_ON = ["P", "UL", "OL", "LI", "PRE", "BLOCKQUOTE"]; // blocks that the next line may belong to

export class RenderedText {
  #place;
  #toHtml;
  #line = element("span", { className: "line" }); // what is not rendered yet
  #text = "";
  #rendered = ""; // as much of the text
  #finished = false;
  #busy = false;

  /** `toHtml(text)` resolves to clean HTML; `place`, an element, is this one's alone. */
  constructor(place, toHtml) {
    this.#place = place;
    this.#toHtml = toHtml;
    place.append(this.#line);
  }

  /** The text so far; `finished`: no more comes. */
  show(text, finished) {
    if (text === this.#text && finished === this.#finished) return;
    this.#text = text;
    this.#finished = finished;
    this.#showLine();
    this.#render();
  }

  /** As much of the text as is rendered: whole lines, and all of it once it is finished. */
  get #due() {
    return this.#finished ? this.#text : this.#text.slice(0, this.#text.lastIndexOf("\n") + 1).trimEnd();
  }

  #showLine() {
    const rest = this.#text.slice(this.#rendered.length);
    let block = lastBlock(this.#place);
    const inCode = block.tagName === "CODE";
    if (!inCode && /^\s*\n\s*\n/.test(rest)) block = this.#place; // after an empty line
    if (this.#line.parentElement !== block) block.append(this.#line);
    const begins = block === this.#place;
    this.#line.classList.toggle("block", begins && rest.trim() !== "");
    this.#line.textContent = begins ? rest.trimStart() : inCode ? rest.replace(/^\n/, "") : rest;
  }

  async #render() {
    if (this.#busy) return;
    this.#busy = true;
    while (this.#due !== this.#rendered) {
      const due = this.#due;
      const begun = performance.now();
      let html;
      try {
        html = await this.#toHtml(due);
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        break; // the text stays as it is, and can be read
      }
      this.#put(due, html);
      const pause = Math.max(PERIOD, SHARE * (performance.now() - begun));
      if (!this.#finished) await new Promise((resolve) => setTimeout(resolve, pause));
    }
    this.#busy = false;
  }

  #put(text, html) {
    if (!this.#place.contains(this.#line)) return; // something else is shown there now
    this.#rendered = text;
    setCleanHtml(this.#place, html);
    this.#showLine();
    if (this.#finished) for (const code of this.#place.querySelectorAll("pre")) offerCopy(code);
  }
}

/** Where the next words belong: the innermost block at the end. */
function lastBlock(place) {
  let block = place;
  for (let last = block; last; last = last.lastElementChild) {
    if (last !== place && !GOES_ON.includes(last.tagName)) break;
    block = last;
  }
  return block.tagName === "PRE" ? block.firstElementChild : block;
}

function offerCopy(code) {
  const framed = element("div", { className: "code" });
  code.replaceWith(framed);
  framed.append(code, copyButton("Copy code", () => code.textContent, code));
}
