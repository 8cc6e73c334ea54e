// Says how old the live image is, once that is more than a look notices.

const OLD = 0.5; // s
const PERIOD = 100; // ms

export class FrameAge {
  #place;
  #panel;
  #taken = 0; // when the frame was, on the clock of performance.now()
  #timer = 0;

  /** `place`: the element for the words; `panel`: marked with the class "old" while they are there. */
  constructor(place, panel) {
    this.#place = place;
    this.#panel = panel;
  }

  /** This frame of Server.frame is on the screen, or still is. */
  show({ age, received }) {
    this.#taken = received - age * 1000;
    this.#timer ||= setInterval(() => this.#update(), PERIOD);
    this.#update();
  }

  /** No live image is on the screen. */
  clear() {
    clearInterval(this.#timer);
    this.#timer = 0;
    this.#say("");
  }

  #update() {
    const age = (performance.now() - this.#taken) / 1000;
    this.#say(age > OLD ? `${age.toFixed(age < 10 ? 1 : 0)} s old` : "");
  }

  #say(words) {
    this.#place.textContent = words;
    this.#place.hidden = !words;
    this.#panel.classList.toggle("old", Boolean(words));
  }
}
