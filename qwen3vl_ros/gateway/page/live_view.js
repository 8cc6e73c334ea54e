// A camera's newest frames, one after the other, while somebody looks.

const PERIOD = 200; // ms between two frames: enough to aim by, and little work for the robot
const PATIENCE = 1000; // ms after a problem
const KEPT = 10; // frames: two seconds of them, which is longer than the news takes that the node has its own

export class LiveView {
  #server;
  #onFrame;
  #onProblem;
  #stop = null;
  #frames = []; // seen since the start, the newest first

  /**
   * `onFrame(frame, isNew)` shows a frame of Server.frame, in its time, or is told that it still is the newest;
   * `onProblem(sentence)` says why none comes.
   */
  constructor(server, onFrame, onProblem) {
    this.#server = server;
    this.#onFrame = onFrame;
    this.#onProblem = onProblem;
  }

  /** Look through this camera; frames are at most `width()` pixels wide. */
  start(camera, width) {
    this.stop();
    this.#frames = [];
    this.#stop = new AbortController();
    this.#look(camera, width, this.#stop.signal);
  }

  stop() {
    this.#stop?.abort();
    this.#stop = null;
  }

  /** The frame seen nearest to `time` (s, of the camera's stamps), of equals the newest; undefined for none. */
  nearest(time) {
    const apart = (frame) => Math.abs(Number(frame.stamp) - time);
    return this.#frames.toSorted((one, other) => apart(one) - apart(other))[0];
  }

  async #look(camera, width, signal) {
    let stamp = "";
    while (!signal.aborted) {
      if (document.hidden) {
        await once(document, "visibilitychange");
        continue;
      }
      let wait = PERIOD;
      try {
        const frame = await this.#server.frame(camera, width(), signal);
        if (signal.aborted) return;
        const isNew = frame.stamp !== stamp;
        if (isNew) this.#frames = [frame, ...this.#frames].slice(0, KEPT);
        stamp = frame.stamp;
        await this.#onFrame(frame, isNew);
      } catch (problem) {
        if (signal.aborted) return;
        this.#onProblem(problem.message);
        stamp = "";
        wait = PATIENCE;
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

const once = (target, type) => new Promise((resolve) => target.addEventListener(type, resolve, { once: true }));
