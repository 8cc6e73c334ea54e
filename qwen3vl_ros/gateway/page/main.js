// The page: joins its parts, and asks.

import { AnswerTimes } from "./answer_times.js";
import { Announcer } from "./announcer.js";
import { follow, newTurn, requestOf } from "./asking.js";
import { byId, sentence } from "./elements.js";
import { Health } from "./health.js";
import { History } from "./history.js";
import { imageFiles } from "./image.js";
import { ImagePanel } from "./image_panel.js";
import { QuestionForm } from "./question_form.js";
import { keepEnd } from "./keep_end.js";
import { Problem, Server } from "./server.js";
import { Settings } from "./settings.js";
import { taskInWords } from "./tasks.js";
import { TurnView } from "./turn_view.js";
import { setVideoLimit } from "./video.js";
import { Watches } from "./watches.js";

const settings = new Settings();
const answerTimes = new AnswerTimes();
const OLD = 2; // s; the default of the node's max_frame_age, beyond which it would not take a frame itself

keepEnd(byId("turns"));
const announcer = new Announcer(byId("announcer"));
const server = new Server(askForToken);
const panel = new ImagePanel(server, () => startOver());
const form = new QuestionForm(ask, () => running?.abort());
const history = new History(reopen);
const watches = new Watches(server);
const health = new Health(server, announcer, (status) => {
  watches.setCameras(status.cameras.map(({ name }) => name));
  panel.setCameras(status.cameras.map(({ name }) => name));
  form.setCard(status.model_card);
  settings.setCard(status.model_card);
  setVideoLimit(status);
  remembers = status.model_card.conversation;
  document.body.classList.toggle("records", status.records);
  model = status.model;
  saySubject();
  offerTasks(["ready", "busy", "inactive", "failed"].includes(status.state));
});

let conversation = null; // asking.js says what is in it
let running = null; // AbortController of the question that is being answered
let tasksOffered = false;
let model = ""; // the one that answers
let remembers = true; // whether the model understands a question that refers to earlier ones

/** Resolves to the token that the user types. */
function askForToken(wrong) {
  const tokenForm = byId("token-form");
  byId("token-note").textContent = wrong
    ? "The gateway refused this token: look at the one that the node web was started with."
    : "The gateway wants one. It is kept until this tab is closed.";
  tokenForm.hidden = false;
  byId("token").focus();
  return new Promise((resolve) => {
    const submitted = (event) => {
      event.preventDefault();
      tokenForm.hidden = true;
      resolve(byId("token").value);
      byId("token").value = "";
      byId("prompt").focus();
    };
    tokenForm.addEventListener("submit", submitted, { once: true });
  });
}

/** Offer the node's tasks; a node that is gone may come back with others. */
async function offerTasks(loaded) {
  if (loaded === tasksOffered) return;
  tasksOffered = loaded;
  if (!loaded) return;
  try {
    form.setTasks(await server.tasks());
    health.setProblem("tasks", "");
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    tasksOffered = false; // the next status tries again
    health.setProblem("tasks", `The list of tasks did not come: ${problem.message}`);
  }
}

/** The camera that the next question looks through; "" where it sends the images that are shown. */
function askedCamera() {
  return conversation ? conversation.camera : panel.isLive ? panel.camera : "";
}

function ageInWords(seconds) {
  if (seconds < 100) return `${Math.round(seconds)} s`;
  return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

/** Whether the next question sends a frame of the camera of this machine. */
function asksOwn() {
  return Boolean(conversation ? conversation.own : panel.isOwn);
}

/** Say what the next question is about. */
function saySubject() {
  const { taken } = panel.images.at(-1) ?? {}; // of an image from a camera
  const seconds = taken ? (Date.now() - taken) / 1000 : 0;
  const age = seconds > OLD ? `, ${ageInWords(seconds)} old` : "";
  const looks = `Each question looks through the camera ${askedCamera()} anew.`;
  const one = panel.images[0]?.video ? "Questions are about this video." : `Questions are about this image${age}.`;
  const sends = panel.images.length > 1 ? "Questions are about these images." : one;
  const old = !askedCamera() && !asksOwn() && seconds > OLD;
  byId("subject").classList.toggle("warning", old);
  const changed = old ? " What the camera sees may have changed: Live looks anew." : "";
  const nothing = "Open, drop or paste an image or a video to ask about it.";
  const looksHere = "Each question sends one new frame of this machine's camera.";
  const of = () => (panel.isLive ? nothing : sends + changed);
  const about = askedCamera() ? looks : asksOwn() ? looksHere : of();
  const words = remembers ? about : `${about} This model answers each question by itself, without the earlier ones.`;
  if (byId("subject").textContent !== words) byId("subject").textContent = words;
  panel.several = form.question().images > 1;
  const follows = conversation !== null && remembers && !form.task;
  byId("ask").textContent = follows ? "Follow up" : "Ask";
  const begun = conversation !== null || running !== null || !(askedCamera() || asksOwn() || panel.images.length);
  if (byId("examples").hidden !== begun) byId("examples").hidden = begun;
}

function startOver() {
  show(null);
}

function reopen(earlier) {
  if (!earlier.own) panel.stopOwn();
  show(earlier);
  showTurn(earlier.turns.at(-1));
}

/** Put a conversation, or with null none, on the screen. */
function show(other) {
  conversation = other;
  byId("turns").replaceChildren(...(other?.turns ?? []).map((turn) => viewOf(turn).root));
  say("");
  update();
}

function viewOf(turn) {
  const toHtml = (text) => server.html(text);
  return new TurnView(turn, { onShow: showTurn, onRetry: retry, onCorrect: correct, usual: answerTimes.usual(model), toHtml });
}

/** Show what depends on the conversation and on whether an answer is being written. */
function update() {
  const begun = conversation !== null;
  byId("new").hidden = !begun || running !== null;
  byId("history").disabled = running !== null;
  panel.locked = running !== null;
  form.busy = running !== null;
  history.setCurrent(conversation);
  saySubject();
}

/** Show the images of a turn with what was found there. */
function showTurn({ image, frame = 0, answer }) {
  const ofImage = (region) => ({ ...region, image: 0 });
  const regions = image ? answer.regions.filter((region) => region.image === frame).map(ofImage) : answer.regions;
  const images = image ? [image] : conversation.images;
  if (!images.length) {
    say("There is no image of this answer.");
    return;
  }
  panel.showImages(images, regions, regions[0]?.image ?? 0);
  byId("stage").scrollIntoView({ block: "nearest" }); // on a phone it is above the conversation
}

/** A sentence above the buttons; "" takes it away. */
function say(words) {
  byId("note").replaceChildren(...sentence(words));
}

/** Run `action`, and say what its Problem says. */
async function saying(action) {
  say("");
  try {
    return await action();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    say(problem.message);
    return null;
  }
}

/** Ask what is in the form. */
async function ask() {
  const question = form.question();
  const turn = await put(question, () => form.clear());
  if (turn?.problem) form.restore(question); // to be edited, unless the next one is there already
}

/** Ask the question of a turn that failed or was stopped again, in place of it. */
async function retry(turn) {
  if (running) return;
  const index = conversation.turns.indexOf(turn);
  const forget = () => {
    conversation.turns.splice(index, 1);
    byId("turns").children[index].remove();
    form.clearIf(turn.question);
  };
  const next = await put(turn.question, forget);
  if (next?.problem) form.restore(turn.question);
}

/** Have the node record what would have been the right answer of a turn. Throws Problem. */
async function correct(turn, text) {
  await server.correct(turn.goalId, text);
  turn.correction = text;
  history.progress(conversation);
}

/** Ask a question, `onBegun()` when it is sure to be. Resolves to its turn; null where nothing can be asked about. */
async function put(question, onBegun) {
  if (running) return null;
  running = new AbortController();
  try {
    const turn = await saying(() => begin(question));
    if (!turn) return null;
    onBegun();
    await answer(turn, requestOf(conversation, turn, question, remembers, settings));
    return turn;
  } finally {
    running = null;
    update();
  }
}

/** The turn of a question, in the conversation or a new one. Throws Problem. */
async function begin(question) {
  const { task, images } = question;
  const camera = askedCamera();
  if (panel.isLive && panel.images.length) {
    throw new Problem("A frame is kept: freeze the live view to ask about both, or press Live to drop the kept one.");
  }
  const own = asksOwn();
  if ((camera || own ? 1 : panel.images.length) < images) {
    const way = "keep a frame and freeze the live view, or open several files";
    throw new Problem(images === 1 ? panel.reason : `${taskInWords(task)} needs ${images} images: ${way}.`);
  }
  const turn = newTurn(question);
  if (own) turn.image = { ...(await panel.imageOfOwn()), ofAnswer: true, note: "the frame asked about" };
  conversation ??= { id: Date.now(), camera, own, images: camera ? [] : panel.images, turns: [] };
  if (camera) panel.look(camera);
  return turn;
}

async function answer(turn, request) {
  conversation.turns.push(turn);
  history.begin(conversation);
  update();
  const view = viewOf(turn);
  byId("turns").append(view.root);
  view.root.scrollIntoView({ block: "nearest" });
  if (turn.image) showTurn(turn);
  try {
    const steps = server.ask(request, running.signal);
    const { headers, times } = await follow(steps, turn, conversation, (delta, waiting) => {
      if (!waiting) panel.pauseAtNextFrame(); // the node has its frame, and the processor is the model's now
      if (turn.parser === "text" && !/^\s*[[{`]/.test(turn.answer.text)) announcer.add(delta);
      view.update();
      history.progress(conversation);
    });
    if (times) answerTimes.add(model, ...times);
    if (conversation.camera) {
      turn.frame = turn.answer.regions.at(-1)?.image ?? headers.length - 1; // of a clip; else there is only one
      await addImage(turn, headers[turn.frame].stamp);
    }
    if (turn.image || turn.answer.regions.length) showTurn(turn);
    const labels = turn.answer.regions.map(({ label }) => label).filter(Boolean);
    if (labels.length) form.labels = [...new Set(labels)];
  } catch (problem) {
    if (running.signal.aborted) turn.stopped = true;
    else if (problem instanceof Problem) turn.problem = problem.message;
    else throw problem;
  } finally {
    turn.stage = null;
    view.update();
    announcer.finish(view.inWords);
    history.end(conversation);
  }
}

/** The image for an answer about a camera. */
async function addImage(turn, stamp) {
  try {
    turn.image = await panel.imageAt(stamp, conversation.camera);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    turn.answer.facts += `\nThere is no frame to show: ${problem.message}`;
  }
}

async function open(files) {
  if (running) say("An answer is being written: stop it first (Esc).");
  else if (files.length) {
    form.labels = [];
    await saying(() => panel.open(files));
  }
}

byId("task").addEventListener("change", saySubject);
byId("new").addEventListener("click", () => {
  if (conversation.camera) panel.goLive();
  else if (conversation.own) saying(() => panel.lookThroughOwn());
  else startOver();
});
byId("own").addEventListener("click", () => saying(() => panel.lookThroughOwn()));
byId("open").addEventListener("click", () => byId("files").click());
byId("files").addEventListener("change", async () => {
  await open([...byId("files").files]);
  byId("files").value = ""; // the same file may be opened again
});
document.addEventListener("paste", (event) => open(imageFiles(event.clipboardData)));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  open(imageFiles(event.dataTransfer));
});

if (matchMedia("(hover: hover)").matches) byId("prompt").focus({ preventScroll: true }); // elsewhere a keyboard opens
const interrupted = await history.load();
await health.start();
performance.mark("status shown");
if (interrupted) {
  const turn = interrupted.turns.at(-1);
  show(interrupted);
  if (turn.image || interrupted.images.length) showTurn(turn);
  form.restore(turn.question);
}
