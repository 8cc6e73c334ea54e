// A list that is scrolled to its end stays there while it grows, or while the room for it shrinks.

const NEAR = 40; // px

/** Keep `list` at its end unless the user scrolls away from it. */
export function keepEnd(list) {
  let atEnd = true;
  list.addEventListener("scroll", () => (atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < NEAR));
  const sizes = new ResizeObserver(() => {
    if (atEnd) list.scrollTop = list.scrollHeight;
  });
  sizes.observe(list);
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) for (const added of addedNodes) sizes.observe(added);
  }).observe(list, { childList: true });
}
