// A video to ask about: an image (image.js) that has the `video` itself, a data: URL, and its `duration` in seconds. Its
// `url` is the first frame; the gateway takes the frames that the model sees out of the video.

import { Problem } from "./server.js";

const LONGEST_SIDE = 1280; // px; the gateway scales frames down to it
const QUALITY = 0.9;

let mostBytes = Infinity; // of a file that the gateway takes

/** Take over what the gateway's status says. */
export function setVideoLimit({ max_video_bytes: bytes }) {
  mostBytes = bytes;
}

export const isVideo = (file) => file.type.startsWith("video/");

/** The video in a file. Throws Problem. */
export async function videoOfFile(file) {
  const name = file.name || "pasted video";
  if (file.size > mostBytes) {
    const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
    throw new Problem(
      `${name} has ${megabytes(file.size)} MB, and the gateway takes ${megabytes(mostBytes)}: cut out a part of it, or ` +
        "raise the gateway's parameters max_video_bytes and max_request_bytes.",
    );
  }
  const video = document.createElement("video");
  Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: await dataUrl(file) });
  await loaded(video).catch(() => {
    throw new Problem(`${name} is no video that this browser can show: use MP4 with H.264, or WebM.`);
  });
  const { videoWidth: width, videoHeight: height, duration, src } = video;
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  const [sentWidth, sentHeight] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: sentWidth, height: sentHeight });
  canvas.getContext("2d").drawImage(video, 0, 0, sentWidth, sentHeight);
  const url = canvas.toDataURL("image/jpeg", QUALITY);
  return { url, video: src, duration, width, height, sentWidth, sentHeight, name };
}

/** Resolves when the first frame can be drawn. */
function loaded(video) {
  return new Promise((resolve, reject) => {
    video.addEventListener("loadeddata", () => (video.videoWidth ? resolve() : reject(new Error("no images"))));
    video.addEventListener("error", () => reject(video.error));
  });
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
