// Conversations in this browser's own database (IndexedDB): they survive a reload and a closed tab, and stay on this
// machine.

const DATABASE = "qwen3vl_ros";
const CONVERSATIONS = "conversations";

export class Store {
  #opened = open();

  /** All that is kept. Rejects where the browser keeps nothing, as in some private windows. */
  all() {
    return this.#do("readonly", (kept) => kept.getAll());
  }

  /** Keep a conversation in place of the one with its id. Rejects where there is no room. */
  put(conversation) {
    return this.#do("readwrite", (kept) => kept.put(conversation));
  }

  delete(id) {
    return this.#do("readwrite", (kept) => kept.delete(id));
  }

  clear() {
    return this.#do("readwrite", (kept) => kept.clear());
  }

  async #do(mode, request) {
    const transaction = (await this.#opened).transaction(CONVERSATIONS, mode);
    const result = resultOf(request(transaction.objectStore(CONVERSATIONS)));
    const done = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error); // also where the disk is full
    });
    return (await Promise.all([result, done]))[0];
  }
}

function open() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(CONVERSATIONS, { keyPath: "id" });
  const opened = resultOf(request);
  opened.catch(() => {}); // whoever asks for something hears of it
  return opened;
}

function resultOf(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
