// What is looked at: a camera's live view, or the pictures of a question with what was found in them.

import { byId, element } from "./elements.js";
import { FrameAge } from "./frame_age.js";
import { LiveView } from "./live_view.js";
import { Overlay } from "./overlay.js";
import { pictureOfFile, pictureOfFrame } from "./picture.js";

const WIDEST_FRAME = 1280; // px
const FIRST_PICTURE = "first picture, or why there is none";

export class PicturePanel {
  #server;
  #onOther;
  #view;
  #overlay = new Overlay(byId("overlay"), byId("regions"));
  #age = new FrameAge(byId("age"), byId("seeing"));
  #live = true;
  #pausing = false; // at the next frame
  #looking = ""; // through this camera
  #frame = null; // the live frame on the screen, its URL included
  #pictures = [];
  #shown = 0;
  #locked = false;
  #regions = [];

  /** `onOther()` is called when the user turns to another picture: a conversation is about its own. */
  constructor(server, onOther) {
    this.#server = server;
    this.#onOther = onOther;
    this.#view = new LiveView(
      server,
      (frame, isNew) => this.#showFrame(frame, isNew),
      (sentence) => this.#showReason(sentence),
    );
    byId("live").addEventListener("click", () => this.goLive());
    byId("freeze").addEventListener("click", () => this.#freeze());
    byId("keep").addEventListener("click", () => this.#keep());
    byId("camera").addEventListener("change", () => this.goLive());
  }

  /** Name of the camera that is, or would be, looked through; "" where there is none. */
  get camera() {
    return byId("camera").value;
  }

  get isLive() {
    return this.#live;
  }

  /** The pictures that were opened, frozen or kept. */
  get pictures() {
    return this.#pictures;
  }

  /** Names of the cameras that there are. */
  setCameras(names) {
    const choice = byId("camera");
    const known = [...choice.options].map(({ value }) => value);
    if (known.join() !== names.join()) {
      const camera = names.includes(this.camera) ? this.camera : names[0];
      choice.replaceChildren(...names.map((name) => new Option(name, name, false, name === camera)));
      choice.hidden = names.length < 2;
    }
    byId("live").disabled = this.#locked || !this.camera;
    if (this.#live) this.#look();
  }

  /** Back to what the camera sees now. */
  goLive() {
    this.#goLive();
    this.#onOther();
  }

  /** Look through this camera, unless that is done already: a question of a conversation looks anew. */
  look(camera) {
    byId("camera").value = camera;
    if (this.#live) this.#look();
    else this.#goLive();
  }

  /** Stop the live view at its next frame, until it is unlocked or pictures are shown. */
  pauseAtNextFrame() {
    this.#pausing = this.#live;
  }

  /** Look at these files instead. Throws Problem. */
  async open(files) {
    this.showPictures(await Promise.all(files.map(pictureOfFile)), [], 0);
    this.#onOther();
  }

  /** Look at pictures and at the regions in them; `region.image` is the index of its picture. */
  showPictures(pictures, regions, shown) {
    this.#stopLooking();
    this.#pictures = [...pictures];
    this.#shown = shown;
    this.#regions = regions;
    this.#showPicture();
    this.#showTray();
  }

  /** Why there is no picture, where there is none. */
  get reason() {
    return byId("no-picture").textContent;
  }

  /**
   * The frame of `camera` with this stamp ({sec, nanosec}) as a picture, or the nearest one that was seen here; its
   * note says which. Throws Problem.
   */
  async pictureAt({ sec, nanosec }, camera) {
    const stamp = `${sec}.${String(nanosec).padStart(9, "0")}`;
    const time = Number(stamp) || Infinity; // of a camera without stamps the newest: the view paused at it
    const frame = this.#view.nearest(time) ?? (await this.#server.frame(camera, this.#width()));
    const picture = await pictureOfFrame(frame, `Camera ${camera}`);
    return { ...picture, ofAnswer: true, note: frame.stamp === stamp ? "the frame asked about" : apart(frame, time) };
  }

  /** Whether the user may turn to other pictures; a live view that was paused goes on when they may. */
  set locked(locked) {
    this.#locked = locked;
    for (const id of ["keep", "open", "camera"]) byId(id).disabled = locked;
    this.#offerFreezing();
    byId("live").disabled = locked || !this.camera;
    if (!locked && this.#live && this.#pausing) this.#start();
  }

  #goLive() {
    this.#pictures = [];
    this.#live = true;
    this.#looking = "";
    this.#showRegions([]);
    this.#showTray();
    this.#look();
  }

  #look() {
    if (!this.camera) {
      this.#stopLooking();
      this.#live = true;
      this.#looking = "";
      this.#showReason("No camera is known: open, drop or paste a picture.");
    } else if (this.#looking !== this.camera) {
      this.#looking = this.camera;
      this.#showReason(`Waiting for a frame of ${this.camera}…`);
      this.#start();
    }
  }

  #start() {
    this.#pausing = false;
    if (this.#frame) this.#age.show(this.#frame);
    this.#view.start(this.#looking, () => this.#width());
  }

  #stopLooking() {
    this.#view.stop();
    this.#age.clear();
    this.#live = false;
  }

  /** As many pixels as the screen has, in steps. */
  #width() {
    const wanted = byId("stage").clientWidth * devicePixelRatio;
    return Math.min(WIDEST_FRAME, Math.ceil(wanted / 320) * 320);
  }

  async #showFrame(frame, isNew) {
    if (!isNew) {
      this.#age.show(frame);
      return;
    }
    const url = URL.createObjectURL(frame.jpeg);
    const image = byId("frame");
    const before = this.#frame?.url;
    image.src = url;
    await image.decode();
    if (before) URL.revokeObjectURL(before);
    if (!this.#live) return;
    this.#frame = { ...frame, url };
    this.#age.show(frame);
    this.#caption(`Camera ${this.#looking}, live · ${frame.width} × ${frame.height}`);
    this.#showImage(`What the camera ${this.#looking} sees`);
    if (this.#pausing) this.#pause();
  }

  #pause() {
    this.#view.stop();
    this.#age.clear();
    this.#caption(`Camera ${this.#looking} · the live view pauses for the answer`);
    byId("live").setAttribute("aria-pressed", "false");
  }

  #showReason(sentence) {
    URL.revokeObjectURL(this.#frame?.url);
    this.#frame = null;
    this.#age.clear();
    byId("frame").hidden = true;
    byId("no-picture").hidden = false;
    byId("no-picture").textContent = sentence;
    this.#caption("A picture can also be dropped or pasted here.");
    this.#shownNow();
  }

  #showImage(alternative) {
    byId("frame").alt = alternative;
    byId("frame").hidden = false;
    byId("no-picture").hidden = true;
    this.#shownNow();
  }

  #showPicture() {
    const picture = this.#pictures[this.#shown];
    byId("frame").src = picture.url;
    this.#showImage(`The picture of the question: ${picture.name}`);
    const asItCame = picture.ofAnswer || picture.sentWidth === picture.width;
    const shrunk = asItCame ? "" : `, sent as ${picture.sentWidth} × ${picture.sentHeight}`;
    const note = picture.note ? ` · ${picture.note}` : "";
    this.#caption(`${picture.name} · ${picture.width} × ${picture.height}${shrunk}${note}`);
    this.#showRegions(this.#regions);
  }

  #showRegions(regions) {
    this.#regions = regions;
    const picture = this.#pictures[this.#shown] ?? { width: 1, height: 1 };
    this.#overlay.show(
      picture,
      regions.filter(({ image }) => image === this.#shown),
    );
  }

  async #keep() {
    this.#pictures.push(await this.#picture("kept"));
    this.#showTray();
  }

  /** Stay at the camera's frame on the screen: questions are about it, and about those that were kept before. */
  async #freeze() {
    const kept = this.#live ? this.#pictures : [];
    const picture = await this.#picture("frozen: questions are about this image");
    this.showPictures([...kept, picture], [], kept.length);
    this.#onOther();
  }

  /** The camera's frame on the screen as a picture to ask about. */
  async #picture(note) {
    const picture = this.#live
      ? await pictureOfFrame(this.#frame, `Camera ${this.#looking}`)
      : this.#pictures[this.#shown];
    return { ...picture, note, ofAnswer: false };
  }

  #caption(text) {
    byId("caption").textContent = text;
  }

  /** A picture, or why there is none, has just appeared. */
  #shownNow() {
    byId("live").setAttribute("aria-pressed", String(this.#live));
    byId("keep").hidden = !this.#live || !this.#frame;
    this.#offerFreezing();
    if (!performance.getEntriesByName(FIRST_PICTURE).length) performance.mark(FIRST_PICTURE);
  }

  /** A camera's frame can be frozen once: the live one, or that of an answer. */
  #offerFreezing() {
    const frame = this.#live ? this.#frame : this.#pictures[this.#shown].ofAnswer;
    const hadFocus = document.activeElement === byId("freeze");
    byId("freeze").disabled = this.#locked || !frame;
    if (hadFocus && byId("freeze").disabled) byId("live").focus(); // which undoes it
  }

  #showTray() {
    const tray = byId("tray");
    tray.hidden = this.#pictures.length < (this.#live ? 1 : 2);
    tray.replaceChildren(...this.#pictures.map((picture, index) => this.#trayItem(picture, index)));
  }

  #trayItem(picture, index) {
    const image = element("img", { src: picture.url, alt: `Picture ${index + 1}: ${picture.name}` });
    if (this.#live) return element("li", {}, image);
    const button = element("button", { type: "button" }, image);
    button.setAttribute("aria-pressed", String(index === this.#shown));
    button.addEventListener("click", () => {
      byId("tray").children[this.#shown].firstChild.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", "true");
      this.#shown = index;
      this.#showPicture();
    });
    return element("li", {}, button);
  }
}

function apart({ stamp }, time) {
  if (time === Infinity) return "seen when it was asked about: the camera's frames have no stamp";
  const seconds = Number(stamp) - time;
  return `a frame ${Math.abs(seconds).toFixed(2)} s ${seconds > 0 ? "after" : "before"} the one asked about`;
}
