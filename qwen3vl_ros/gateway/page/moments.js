// Times in a clip, in words.

/** A moment of asking.js: "0:04.5 the cup falls", "0:01.0 - 0:02.5 the door opens". */
export function momentInWords({ label, start, end }) {
  const times = [...new Set([clock(start), clock(end)])].join(" \u2013 ");
  return label ? `${times} ${label}` : times;
}

/** 0:04.5 for 4.5 seconds. */
function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  return `${Math.floor(tenths / 600)}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}
