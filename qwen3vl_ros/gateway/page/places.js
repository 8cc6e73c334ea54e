// Where things are, in words.

/**
 * Metres with their axes and frame. `optical`: the frame is a camera's optical one, in which x is to the right, y down
 * and z ahead (REP 103); else the axes are named.
 */
export function metresInWords({ position: [x, y, z], frame_id: frame, optical }) {
  const metres = (value) => `${Math.abs(value).toFixed(2)} m`;
  const axes = optical
    ? [
        `${metres(z)} ${z < 0 ? "behind" : "ahead"}`,
        `${metres(x)} ${x < 0 ? "left" : "right"}`,
        `${metres(y)} ${y < 0 ? "up" : "down"}`,
      ]
    : [`x ${x.toFixed(2)}`, `y ${y.toFixed(2)}`, `z ${z.toFixed(2)} m`];
  return `${axes.join(", ")}${frame ? ` in ${frame}` : ""}`;
}

/** Pixels of a region in its original image. */
export function pixelsInWords({ box, point }) {
  const parts = [];
  if (box) {
    const [x, y, width, height] = box.map(Math.round);
    parts.push(`${width} × ${height} px at ${x}, ${y}`);
  }
  if (point) parts.push(`point ${point.map(Math.round).join(", ")} px`);
  return parts.join(" · ");
}

/** How sure the model is of a region, "" where that is unknown. */
export function scoreInWords({ score }) {
  return typeof score === "number" ? `score ${score.toFixed(2)}` : "";
}

/** What was found, without places. */
export function foundInWords(regions) {
  if (!regions.length) return "Nothing found.";
  const counts = new Map();
  for (const { label } of regions) counts.set(label || "unnamed", (counts.get(label || "unnamed") ?? 0) + 1);
  const parts = [...counts].map(([label, count]) => (count > 1 ? `${count} × ${label}` : label));
  return `Found: ${parts.join(", ")}.`;
}
