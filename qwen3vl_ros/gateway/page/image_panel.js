// What is looked at: a camera's live view, or the images of a question with what was found in them.

import { byId, element, sentence } from "./elements.js";
import { FrameAge } from "./frame_age.js";
import { LiveView } from "./live_view.js";
import { Overlay } from "./overlay.js";
import { OwnCamera } from "./own_camera.js";
import { imageOfFile, imageOfFrame } from "./image.js";
import { Problem } from "./server.js";
import { isVideo, videoOfFile } from "./video.js";

const WIDEST_FRAME = 1280; // px
const FIRST_IMAGE = "first image, or why there is none";

export class ImagePanel {
  #server;
  #onOther;
  #view;
  #overlay = new Overlay(byId("overlay"), byId("regions"));
  #age = new FrameAge(byId("age"), byId("seeing"));
  #own = new OwnCamera(byId("own-view"));
  #live = true;
  #pausing = false; // at the next frame
  #looking = ""; // through this camera
  #frame = null; // the live frame on the screen, its URL included
  #images = [];
  #shown = 0;
  #locked = false;
  #several = false;
  #regions = [];

  /** `onOther()` is called when the user turns to another image: a conversation is about its own. */
  constructor(server, onOther) {
    this.#server = server;
    this.#onOther = onOther;
    this.#view = new LiveView(
      server,
      (frame, isNew) => this.#showFrame(frame, isNew),
      (reason) => this.#showReason(reason),
    );
    byId("live").addEventListener("click", () => this.goLive());
    byId("freeze").addEventListener("click", () => this.#freeze());
    byId("keep").addEventListener("click", () => this.#keep());
    byId("camera").addEventListener("change", () => this.goLive());
    byId("clip").addEventListener("play", () => this.#showRegions([])); // which are of one of its frames
  }

  /** Name of the camera that is, or would be, looked through; "" where there is none. */
  get camera() {
    return byId("camera").value;
  }

  get isLive() {
    return this.#live;
  }

  /** Whether the camera of this machine is looked through. */
  get isOwn() {
    return !byId("own-view").hidden;
  }

  /** Look through the camera of this machine, which the user has to allow. Throws Problem. */
  async lookThroughOwn() {
    await this.#own.start();
    this.#stopLooking();
    this.#images = [];
    this.#showRegions([]);
    this.#showTray();
    this.#hideClip();
    byId("frame").hidden = true;
    byId("no-image").hidden = true;
    byId("own-view").hidden = false;
    this.#caption("Camera of this machine, live · nothing is sent but one frame with each question");
    this.#shownNow();
    this.#onOther();
  }

  /** A frame of the camera of this machine. Throws Problem. */
  imageOfOwn() {
    return this.#own.image();
  }

  /** The camera of this machine is not needed any more. */
  stopOwn() {
    this.#own.stop();
  }

  /** The images that were opened, frozen or kept. */
  get images() {
    return this.#images;
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

  /** Whether a question about several images is being prepared, for which a frame may be put aside. */
  set several(several) {
    this.#several = several;
    this.#offerKeeping();
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

  /** Stop the live view at its next frame, until it is unlocked or images are shown. */
  pauseAtNextFrame() {
    this.#pausing = this.#live;
  }

  /** Look at these files, images or one video, instead. Throws Problem. */
  async open(files) {
    if (files.length > 1 && files.some(isVideo)) throw new Problem("A question is about one video: open it by itself.");
    this.#own.stop();
    this.showImages(await Promise.all(files.map((file) => (isVideo(file) ? videoOfFile : imageOfFile)(file))), [], 0);
    this.#onOther();
  }

  /** Look at images and at the regions in them; `region.image` is the index of its image. */
  showImages(images, regions, shown) {
    this.#stopLooking();
    this.#images = [...images];
    this.#shown = shown;
    this.#regions = regions;
    this.#showImage();
    this.#showTray();
  }

  /** Why there is no image, where there is none. */
  get reason() {
    return byId("no-image").textContent;
  }

  /**
   * The frame of `camera` with this stamp ({sec, nanosec}) as an image, or the nearest one that was seen here; its
   * note says which. Throws Problem.
   */
  async imageAt({ sec, nanosec }, camera) {
    const stamp = `${sec}.${String(nanosec).padStart(9, "0")}`;
    const time = Number(stamp) || Infinity; // of a camera without stamps the newest: the view paused at it
    const frame = this.#view.nearest(time) ?? (await this.#server.frame(camera, this.#width()));
    const image = await imageOfFrame(frame, `Camera ${camera}`);
    return { ...image, ofAnswer: true, note: frame.stamp === stamp ? "the frame asked about" : apart(frame, time) };
  }

  /** Whether the user may turn to other images; a live view that was paused goes on when they may. */
  set locked(locked) {
    this.#locked = locked;
    for (const id of ["keep", "open", "own", "camera"]) byId(id).disabled = locked;
    this.#offerFreezing();
    byId("live").disabled = locked || !this.camera;
    if (!locked && this.#live && this.#pausing) this.#start();
  }

  #goLive() {
    this.#own.stop();
    byId("own-view").hidden = true;
    this.#images = [];
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
      this.#showReason("No camera is known: open, drop or paste an image or a video.");
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
    this.#reveal(`What the camera ${this.#looking} sees`);
    if (this.#pausing) this.#pause();
  }

  #pause() {
    this.#view.stop();
    this.#age.clear();
    this.#caption(`Camera ${this.#looking} · the live view pauses for the answer`);
    byId("live").setAttribute("aria-pressed", "false");
  }

  #showReason(reason) {
    URL.revokeObjectURL(this.#frame?.url);
    this.#frame = null;
    this.#age.clear();
    this.#hideClip();
    byId("frame").hidden = true;
    byId("no-image").hidden = false;
    byId("no-image").replaceChildren(...sentence(reason));
    this.#caption("An image or a video can also be dropped or pasted here.");
    this.#shownNow();
  }

  #hideClip() {
    if (byId("clip").hidden) return;
    byId("clip").hidden = true;
    byId("clip").removeAttribute("src");
    byId("clip").load(); // it stops
  }

  /** Show a video, at the moment in which places were found. */
  #showClip({ video, name, width, height, duration }) {
    const clip = byId("clip");
    if (clip.src !== video) clip.src = video;
    const regions = this.#regions;
    const time = regions.at(-1)?.time;
    clip.pause();
    if (time !== undefined) clip.currentTime = time;
    clip.hidden = false;
    for (const id of ["frame", "own-view", "no-image"]) byId(id).hidden = true;
    const length = Number.isFinite(duration) ? ` · ${duration.toFixed(1)} s` : "";
    this.#caption(`${name} · ${width} × ${height}${length}`);
    this.#showRegions(regions.filter((region) => region.time === time));
    this.#shownNow();
  }

  #reveal(alternative) {
    this.#hideClip();
    byId("frame").alt = alternative;
    byId("frame").hidden = false;
    byId("own-view").hidden = true;
    byId("no-image").hidden = true;
    this.#shownNow();
  }

  #showImage() {
    const image = this.#images[this.#shown];
    if (image.video) {
      this.#showClip(image);
      return;
    }
    byId("frame").src = image.url;
    this.#reveal(`The image of the question: ${image.name}`);
    const asItCame = image.ofAnswer || image.sentWidth === image.width;
    const shrunk = asItCame ? "" : `, sent as ${image.sentWidth} × ${image.sentHeight}`;
    const note = image.note ? ` · ${image.note}` : "";
    this.#caption(`${image.name} · ${image.width} × ${image.height}${shrunk}${note}`);
    this.#showRegions(this.#regions);
  }

  #showRegions(regions) {
    this.#regions = regions;
    const image = this.#images[this.#shown] ?? { width: 1, height: 1 };
    this.#overlay.show(
      image,
      regions.filter((region) => region.image === this.#shown),
    );
  }

  async #keep() {
    this.#images.push(await this.#image("kept"));
    this.#showTray();
  }

  /** Stay at the camera's frame on the screen: questions are about it, and about those that were kept before. */
  async #freeze() {
    const kept = this.#live ? this.#images : [];
    const image = await this.#image("frozen: questions are about this image");
    this.#own.stop();
    this.showImages([...kept, image], [], kept.length);
    this.#onOther();
  }

  /** The camera's frame on the screen as an image to ask about. */
  async #image(note) {
    if (this.isOwn) return { ...(await this.#own.image()), note, ofAnswer: false };
    const image = this.#live
      ? await imageOfFrame(this.#frame, `Camera ${this.#looking}`)
      : this.#images[this.#shown];
    return { ...image, note, ofAnswer: false };
  }

  #caption(text) {
    byId("caption").textContent = text;
  }

  /** An image, or why there is none, has just appeared. */
  #shownNow() {
    byId("live").setAttribute("aria-pressed", String(this.#live));
    byId("own").setAttribute("aria-pressed", String(this.isOwn));
    this.#offerFreezing();
    this.#offerKeeping();
    if (!performance.getEntriesByName(FIRST_IMAGE).length) performance.mark(FIRST_IMAGE);
  }

  /** A camera's frame can be frozen once: the live one, or that of an answer. */
  #offerFreezing() {
    const frame = this.#live ? this.#frame : this.isOwn || this.#images[this.#shown].ofAnswer;
    const hadFocus = document.activeElement === byId("freeze");
    byId("freeze").disabled = this.#locked || !frame;
    if (hadFocus && byId("freeze").disabled) byId("live").focus(); // which undoes it
  }

  #offerKeeping() {
    byId("keep").hidden = !this.#several || !this.#live || !this.#frame;
  }

  #showTray() {
    const tray = byId("tray");
    tray.hidden = this.#images.length < (this.#live ? 1 : 2);
    tray.replaceChildren(...this.#images.map((image, index) => this.#trayItem(image, index)));
  }

  #trayItem(image, index) {
    const thumbnail = element("img", { src: image.url, alt: `Image ${index + 1}: ${image.name}` });
    if (this.#live) return element("li", {}, thumbnail);
    const button = element("button", { type: "button" }, thumbnail);
    button.setAttribute("aria-pressed", String(index === this.#shown));
    button.addEventListener("click", () => {
      byId("tray").children[this.#shown].firstChild.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", "true");
      this.#shown = index;
      this.#showImage();
    });
    return element("li", {}, button);
  }
}

function apart({ stamp }, time) {
  if (time === Infinity) return "seen when it was asked about: the camera's frames have no stamp";
  const seconds = Number(stamp) - time;
  return `a frame ${Math.abs(seconds).toFixed(2)} s ${seconds > 0 ? "after" : "before"} the one asked about`;
}
