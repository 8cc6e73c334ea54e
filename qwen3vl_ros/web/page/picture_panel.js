// What is looked at: a camera's live view, or the pictures of a question with what was found in them.

import { byId, element } from "./elements.js";
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
  #live = true;
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
      (frame) => this.#showFrame(frame),
      (sentence) => this.#showReason(sentence),
    );
    byId("live").addEventListener("click", () => this.goLive());
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
    this.#onOther();
    this.#pictures = [];
    this.#live = true;
    this.#looking = "";
    this.#showRegions([]);
    this.#showTray();
    this.#look();
  }

  /** Look at these files instead. Throws Problem. */
  async open(files) {
    const pictures = await Promise.all(files.map(pictureOfFile));
    this.#onOther();
    this.showPictures(pictures, [], 0);
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

  /** How many pictures a question would be about now. */
  get count() {
    return this.#pictures.length + (this.#live && this.#frame ? 1 : 0);
  }

  /** Why there is no picture, where there is none. */
  get reason() {
    return byId("no-picture").textContent;
  }

  /** The pictures that a question is about now, `count` of them; the live view stops at its frame. */
  async freeze() {
    if (!this.#live) return this.#pictures;
    const frame = this.#frame;
    this.#stopLooking();
    if (frame) {
      const picture = await pictureOfFrame(frame, `Camera ${this.#looking}`);
      this.#pictures.push({ ...picture, note: "the frame that is asked about" });
    }
    this.showPictures(this.#pictures, [], this.#pictures.length - 1);
    return this.#pictures;
  }

  /** The picture of `camera` now, at full size. */
  async newestPicture(camera) {
    return pictureOfFrame(await this.#server.frame(camera, WIDEST_FRAME), `Camera ${camera}`);
  }

  /** Whether the user may turn to other pictures. */
  set locked(locked) {
    this.#locked = locked;
    for (const id of ["keep", "open", "camera"]) byId(id).disabled = locked;
    byId("live").disabled = locked || !this.camera;
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
      this.#view.start(this.camera, () => this.#width());
    }
  }

  #stopLooking() {
    this.#view.stop();
    this.#live = false;
  }

  /** As many pixels as the screen has, in steps. */
  #width() {
    const wanted = byId("stage").clientWidth * devicePixelRatio;
    return Math.min(WIDEST_FRAME, Math.ceil(wanted / 320) * 320);
  }

  async #showFrame(frame) {
    const url = URL.createObjectURL(frame.jpeg);
    const image = byId("frame");
    const before = this.#frame?.url;
    image.src = url;
    await image.decode();
    if (before) URL.revokeObjectURL(before);
    if (!this.#live) return;
    this.#frame = { ...frame, url };
    this.#caption(`Camera ${this.#looking}, live · ${frame.width} × ${frame.height}`);
    this.#showImage(`What the camera ${this.#looking} sees now`);
  }

  #showReason(sentence) {
    URL.revokeObjectURL(this.#frame?.url);
    this.#frame = null;
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
    const shrunk = picture.sentWidth === picture.width ? "" : `, sent as ${picture.sentWidth} × ${picture.sentHeight}`;
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
    this.#pictures.push(await pictureOfFrame(this.#frame, `Camera ${this.#looking}`));
    this.#showTray();
  }

  #caption(text) {
    byId("caption").textContent = text;
  }

  /** A picture, or why there is none, has just appeared. */
  #shownNow() {
    byId("live").setAttribute("aria-pressed", String(this.#live));
    byId("keep").hidden = !this.#live || !this.#frame;
    if (!performance.getEntriesByName(FIRST_PICTURE).length) performance.mark(FIRST_PICTURE);
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
