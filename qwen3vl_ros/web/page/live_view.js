// A camera's newest frames, one after the other, while somebody looks.

const PERIOD = 200; // ms between two frames: enough to aim by, and little work for the robot
const PATIENCE = 1000; // ms after a problem

export class LiveView {
  #server;
  #onFrame;
  #onProblem;
  #stop = null;

  /** `onFrame(frame)` shows a frame of Server.frame, in its time; `onProblem(sentence)` says why none comes. */
  constructor(server, onFrame, onProblem) {
    this.#server = server;
    this.#onFrame = onFrame;
    this.#onProblem = onProblem;
  }

  /** Look through this camera; frames are at most `width()` pixels wide. */
  start(camera, width) {
    this.stop();
    this.#stop = new AbortController();
    this.#look(camera, width, this.#stop.signal);
  }

  stop() {
    this.#stop?.abort();
    this.#stop = null;
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
        if (frame.stamp !== stamp && !signal.aborted) await this.#onFrame(frame);
        stamp = frame.stamp;
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
