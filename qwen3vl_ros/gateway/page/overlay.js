// Boxes and points over an image, and the list that says the same in words. Either lights the other up. They have
// numbers and one colour: a colour of their own would contradict those of the things. The name of a lit one is shown.

import { element, svg } from "./elements.js";
import { metresInWords, pixelsInWords, scoreInWords } from "./places.js";

const LABEL_SIZE = 13; // px on the screen, whatever the image's size
const GAP = 4;
const POINT_RADIUS = 5;

export class Overlay {
  #drawing;
  #section;
  #list;
  #size = null;
  #regions = [];
  #pinned = -1;

  /** `drawing`: the SVG over the image; `section`: the place of the list. */
  constructor(drawing, section) {
    this.#drawing = drawing;
    this.#section = section;
    this.#list = section.querySelector("ul");
    new ResizeObserver(() => this.#draw()).observe(drawing);
  }

  /** Show regions of an image of this size, all in its pixels; [] takes everything away. */
  show({ width, height }, regions) {
    this.#size = { width, height };
    this.#regions = regions;
    this.#pinned = -1;
    this.#drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#section.hidden = regions.length === 0;
    this.#list.replaceChildren(...regions.map((region, index) => this.#row(region, index)));
    this.#draw();
  }

  #row(region, index) {
    const button = element(
      "button",
      { type: "button", className: "region" },
      element("span", { className: "number" }, String(index + 1)),
      element("span", { className: "name" }, region.label || "unnamed"),
      element("span", { className: "score" }, scoreInWords(region)),
      element("span", { className: "place" }, whereInWords(region)),
    );
    button.setAttribute("aria-pressed", "false");
    button.dataset.region = index;
    if (region.problem) button.append(element("span", { className: "problem" }, region.problem));
    button.addEventListener("click", () => this.#pin(index));
    for (const type of ["pointerenter", "focus"]) button.addEventListener(type, () => this.#light(index));
    for (const type of ["pointerleave", "blur"]) button.addEventListener(type, () => this.#light(this.#pinned));
    return element("li", {}, button);
  }

  #draw() {
    if (!this.#size) return;
    const { clientWidth, clientHeight } = this.#drawing;
    // How many of the image's pixels a pixel of the screen shows.
    const scale = Math.max(this.#size.width / clientWidth, this.#size.height / clientHeight);
    if (!Number.isFinite(scale)) return;
    this.#drawing.replaceChildren(...this.#regions.map((region, index) => this.#shape(region, index, scale)));
    this.#light(this.#pinned);
  }

  #shape(region, index, scale) {
    const group = svg("g", { class: "region" });
    group.dataset.region = index;
    const { box, point, polygon, label } = region;
    const outlines = [];
    if (box) outlines.push(["rect", { x: box[0], y: box[1], width: box[2], height: box[3] }]);
    if (polygon.length) outlines.push(["polygon", { points: polygon.join(" ") }]);
    for (const [shape, place] of outlines) {
      group.append(svg(shape, { class: "halo", ...place }), svg(shape, { class: "box", ...place }));
    }
    if (point) group.append(svg("circle", { class: "point", cx: point[0], cy: point[1], r: POINT_RADIUS * scale }));
    const corner = box ?? point ?? polygon[0];
    if (corner) {
      this.#name(group, "number", String(index + 1), corner, scale);
      if (label) this.#name(group, "name", `${index + 1} ${label}`, corner, scale);
    }
    group.addEventListener("pointerenter", () => this.#light(index));
    group.addEventListener("pointerleave", () => this.#light(this.#pinned));
    group.addEventListener("click", () => this.#pin(index));
    return group;
  }

  /** Words of this class above a corner, or below it where the image ends. */
  #name(group, kind, words, [x, y], scale) {
    const size = LABEL_SIZE * scale;
    const gap = GAP * scale;
    const top = y - size - 2 * gap < 0 ? y : y - size - 2 * gap;
    const text = svg("text", { x: x + gap, y: top + size + gap / 2, "font-size": size });
    text.textContent = words;
    const back = svg("rect", { class: "label", x, y: top, height: size + 2 * gap, width: 0 });
    const label = svg("g", { class: kind });
    label.append(back, text);
    group.append(label);
    this.#drawing.append(group); // a text has a length once it is in the document
    const width = text.getComputedTextLength() + 2 * gap;
    const left = Math.max(0, Math.min(x, this.#size.width - width));
    back.setAttribute("width", width);
    back.setAttribute("x", left);
    text.setAttribute("x", left + gap);
  }

  #pin(index) {
    this.#pinned = this.#pinned === index ? -1 : index;
    for (const button of this.#list.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.region) === this.#pinned));
    }
    this.#light(this.#pinned);
  }

  /** Light region `index` up in image and list; -1: none. */
  #light(index) {
    for (const part of [...this.#drawing.children, ...this.#list.querySelectorAll("button")]) {
      part.classList.toggle("lit", Number(part.dataset.region) === index);
    }
    this.#drawing.classList.toggle("dimmed", index >= 0);
  }
}

function whereInWords(region) {
  const metres = region.position ? metresInWords(region) : "";
  return [metres, pixelsInWords(region)].filter(Boolean).join(" · ");
}
