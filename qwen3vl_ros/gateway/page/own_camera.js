// The camera of the machine that this browser runs on. It is on from the first use until `stop`.

import { Problem } from "./server.js";

const WIDTH = 1280; // px, wanted
const QUALITY = 0.92;
const REASONS = {
  NotAllowedError: "The browser was not allowed to use its camera: allow it beside the page's address, and try again.",
  NotFoundError: "This machine has no camera that the browser knows: connect one, or open an image.",
  NotReadableError: "The camera of this machine cannot be read: another program may be using it.",
};

export class OwnCamera {
  #video;
  #stream = null;

  /** `video`: the element that shows what it sees. */
  constructor(video) {
    this.#video = video;
  }

  /** Ask the user, through the browser, and begin. Throws Problem. */
  async start() {
    if (this.#stream) return;
    if (!navigator.mediaDevices) {
      throw new Problem(
        "Browsers let a page use their camera only over https, or on the very machine that serves it (localhost).",
      );
    }
    const wanted = { video: { width: { ideal: WIDTH }, facingMode: "environment" } };
    this.#stream = await navigator.mediaDevices.getUserMedia(wanted).catch((error) => {
      throw new Problem(REASONS[error.name] ?? `The camera of this machine does not start: ${error.message}`);
    });
    this.#stream.getVideoTracks()[0].addEventListener("ended", () => this.stop()); // unplugged, or taken back
    this.#video.srcObject = this.#stream;
    await this.#video.play();
  }

  stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.#video.srcObject = null;
  }

  /** What it sees now, as an image (image.js); it is started where it is not on. Throws Problem. */
  async image() {
    await this.start();
    const { videoWidth: width, videoHeight: height } = this.#video;
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").drawImage(this.#video, 0, 0);
    const url = canvas.toDataURL("image/jpeg", QUALITY);
    const name = "Camera of this machine";
    return { url, width, height, sentWidth: width, sentHeight: height, name, taken: Date.now() };
  }
}
