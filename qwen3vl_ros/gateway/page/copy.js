// Buttons that copy.

import { element } from "./elements.js";

const SHOWN = 3000; // ms

/** A button `name` that copies `text()`; where the browser forbids that, it selects `place`, to be copied by key. */
export function copyButton(name, text, place) {
  const button = element("button", { type: "button", className: "copy" }, name);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text()); // only there with https or on this very machine
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(place);
      button.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => (button.textContent = name), SHOWN);
  });
  return button;
}
