// A turn: one question of a conversation, its request to the gateway, and what its answer brings.
//
// A conversation is {id, camera, own, images, turns}: each question sends its `images`, or, where it is about the
// camera of this machine (`own`), a new image of that; or, where it has a `camera`, has the node look through it anew.
//
// A turn is {question, title, task, text, parser, image, frame, answer, begun, started, stage, problem, stopped}:
// `question` is what QuestionForm.question gave, to ask it again; `image` is the frame that is shown beside the answer
// about a camera, and sent where it is this machine's, null for none, and `frame` its index among the answer's images;
// `begun` is when it was asked, `started` when it left the queue, 0 before (performance.now()); `stage` is null once it
// is over. Its answer is {text, reasoning, regions, moments, json, facts};
// `regions` are those of the gateway's answer in pixels of the original image, `optical` where their metres are in the
// frame of the image itself; `moments` are {label, start, end}, seconds since the first frame of a clip. A turn that was
// answered has the `goalId` by which the node's recording knows it, and, once the user has said so, the `correction`.

const WAITING = ["queued", "frame"]; // the stages before the node has its frame

/** The turn that begins with what QuestionForm.question gives. */
export function newTurn(question) {
  const { title, text, task, parser } = question;
  const answer = { text: "", reasoning: "", regions: [], moments: [], json: null, facts: "" };
  const begun = performance.now();
  return {
    ...{ question, title, text, task, parser, answer, begun },
    ...{ started: 0, image: null, frame: 0, stage: {}, problem: "", stopped: false },
  };
}

/**
 * The request of a turn: what was said before, the images, or the camera that the node is to look through, and the
 * user's Settings.
 * A task is asked afresh: its wording is made to stand alone. So is everything where the model does not `remember`.
 */
export function requestOf({ camera, own, images, turns }, turn, { task, slots }, remembers, settings) {
  const answered = task || !remembers ? [] : turns.filter(({ answer }) => answer.text);
  const messages = answered.flatMap(({ title, answer }) => [
    { role: "user", content: [{ type: "text", text: title }] },
    { role: "assistant", content: answer.text },
  ]);
  messages.push({ role: "user", content: [{ type: "text", text: turn.text }] });
  const parts = (sent) =>
    sent.map(({ url, video }) =>
      video ? { type: "video_url", video_url: { url: video } } : { type: "image_url", image_url: { url } },
    );
  if (own) messages.at(-1).content.unshift(...parts([turn.image]));
  else if (images[0]?.video) messages.at(-1).content.unshift(...parts(images)); // only a question's own is a clip
  else messages[0].content.unshift(...parts(images));
  if (settings.systemPrompt) messages.unshift({ role: "system", content: settings.systemPrompt });
  return { messages, ...settings.fields, ...(camera && { camera }), ...(task && { task, slots }) };
}

/**
 * Take in the steps of Server.ask until the answer is complete, with `onStep(delta, waiting)` after each; `waiting`:
 * the node has no frame yet. Returns the headers of the answer's frames, and the times of AnswerTimes.add, null where
 * there were no words. Throws what they throw.
 */
export async function follow(steps, turn, { camera, own, images }, onStep) {
  let firstWord = 0;
  let step = await steps.next();
  for (; !step.done; step = await steps.next()) {
    const { stage, delta = "", reasoning = "" } = step.value;
    if (stage) turn.stage = step.value;
    if (stage !== "queued") turn.started ||= performance.now();
    if (delta) firstWord ||= performance.now();
    turn.answer.text += delta;
    turn.answer.reasoning += reasoning;
    onStep(delta, WAITING.includes(stage));
  }
  const { extra, usage, finishReason } = step.value;
  turn.answer.facts = facts(turn.task, extra, usage, finishReason, (performance.now() - turn.begun) / 1000);
  turn.answer.json = extra.json ?? null;
  turn.answer.moments = momentsOf(extra);
  turn.goalId = extra.goal_id ?? "";
  const regions = (extra.regions ?? []).map((region) => ({
    ...region,
    optical: region.frame_id === extra.image_headers?.[region.image]?.frame_id,
  }));
  const sent = own ? [turn.image] : images;
  if (images[0]?.video) turn.answer.regions = regions.map((region) => inVideo(region, images[0], extra.image_headers));
  else if (!camera) turn.answer.regions = regions.map((region) => inOriginal(region, sent[region.image]));
  else if (regions.some(({ position }) => position)) turn.answer.regions = regions;
  else {
    // Nothing was measured, most likely since the camera has no depth: said once and not for every region.
    turn.answer.regions = regions.map((region) => ({ ...region, problem: "" }));
    const problems = new Set(regions.map(({ problem }) => problem).filter(Boolean));
    turn.answer.facts = [turn.answer.facts, ...problems].join("\n");
  }
  const since = (time) => (time - turn.started) / 1000;
  return { headers: extra.image_headers, times: firstWord ? [since(firstWord), since(performance.now())] : null };
}

/** The times in an answer about a clip, in seconds since its first frame. */
function momentsOf({ moments = [], image_headers: headers = [] }) {
  const since = ({ sec, nanosec }) => sec - headers[0].stamp.sec + (nanosec - headers[0].stamp.nanosec) / 1e9;
  return moments.map(({ label, stamp, end_stamp: end }) => ({ label, start: since(stamp), end: since(end) }));
}

/** A region in pixels of the original image, not of what was sent. */
function inOriginal(region, { width, height, sentWidth, sentHeight }) {
  const [across, down] = [width / sentWidth, height / sentHeight];
  const scaled = (numbers) => numbers && numbers.map((number, index) => number * (index % 2 ? down : across));
  const problem = region.position ? region.problem : ""; // nobody expects metres in an image without depth
  return {
    ...region,
    box: scaled(region.box),
    point: scaled(region.point),
    polygon: region.polygon.map(scaled),
    problem,
  };
}

/** A region in pixels of the video, with the time of its frame. */
function inVideo(region, video, headers) {
  const { sec, nanosec } = headers[region.image].stamp;
  return { ...inOriginal(region, video), image: 0, time: sec + nanosec / 1e9 };
}

// Notes on what the page shows anyway: in its banner, and by boxes that have no score.
const SEEN = ["a demonstration model: ", "no score: "];

function facts(task, { engine, probability, notes }, usage, finishReason, seconds) {
  const parts = [`${seconds.toFixed(1)} s`];
  if (usage) parts.unshift(usage.completion_tokens === 1 ? "1 token" : `${usage.completion_tokens} tokens`);
  const what = task === "yes_no" ? "yes" : "the first choice";
  if (typeof probability === "number") parts.push(`probability of ${what} ${probability.toFixed(2)}`);
  if (engine) parts.push(engine);
  if (finishReason === "length") parts.push("cut short at the most tokens that an answer may have");
  const others = (notes ?? []).filter((note) => !SEEN.some((beginning) => note.startsWith(beginning)));
  return [parts.join(" · "), ...others].join("\n");
}
