// Images to ask about. An image is {url, width, height, sentWidth, sentHeight, name}: `url` is the JPEG that is
// sent and shown, `width` and `height` are those of the original, in whose pixels boxes are drawn and written. A
// camera's has its `stamp` (seconds), when it was `taken` (ms, of Date.now()) and a `note` where there is more to say
// about it; `ofAnswer` is true where it is shown beside an answer and was not sent.

import { Problem } from "./server.js";

const LONGEST_SIDE = 2048; // px; 4.2 megapixels: more than a model sees, and far below the gateway's max_image_pixels
const QUALITY = 0.95;

/** The image in a file, upright and small enough to be sent. Throws Problem. */
export async function imageOfFile(file) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Problem(`${file.name || "The pasted file"} is no image that this browser can read: use JPEG or PNG.`);
  });
  const { width, height } = bitmap;
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const url = canvas.toDataURL("image/jpeg", QUALITY);
  return {
    url,
    width,
    height,
    sentWidth: canvas.width,
    sentHeight: canvas.height,
    name: file.name || "pasted image",
  };
}

/** The image that a camera's frame (Server.frame) is. */
export async function imageOfFrame(frame, name) {
  const bitmap = await createImageBitmap(frame.jpeg);
  const [sentWidth, sentHeight] = [bitmap.width, bitmap.height];
  bitmap.close();
  const { width, height, stamp, age, received } = frame;
  const taken = Date.now() - (performance.now() - received) - age * 1000;
  return { url: await dataUrl(frame.jpeg), width, height, sentWidth, sentHeight, name, stamp, taken };
}

/** Files of images and videos in what was dropped or pasted. */
export function imageFiles(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => /^(image|video)\//.test(file.type));
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
