"""A real RTSP server, GStreamer's. Run with the system's Python, which has GStreamer's bindings: PORT [VIDEO.mp4]

rtsp://127.0.0.1:PORT/clock  JPEG, 25 images a second that show when they were drawn (see stream_clock.py)
rtsp://127.0.0.1:PORT/video  the H.264 of VIDEO.mp4, at its rate
"""

import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

from stream_clock import HEIGHT, WIDTH, draw_time  # noqa: E402

PERIOD = 40  # milliseconds
CLOCK = (
    f"( appsrc name=clock is-live=true do-timestamp=true format=time "
    f"caps=video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=25/1 "
    "! jpegenc ! rtpjpegpay name=pay0 pt=26 )"
)


class ClockFactory(GstRtspServer.RTSPMediaFactory):
    """Draws for every client."""

    def do_create_element(self, url):
        return Gst.parse_launch(CLOCK)

    def do_configure(self, media):
        source = media.get_element().get_by_name("clock")

        def push() -> bool:
            # Refused until the pipeline has started, which takes as long as it takes.
            source.emit("push-buffer", Gst.Buffer.new_wrapped(draw_time(time.monotonic())))
            return GLib.SOURCE_CONTINUE

        timer = GLib.timeout_add(PERIOD, push)
        media.connect("unprepared", lambda _: GLib.source_remove(timer))


def main() -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1])
    mounts = server.get_mount_points()
    mounts.add_factory("/clock", ClockFactory())
    for path in sys.argv[2:]:
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( filesrc location={path} ! qtdemux ! rtph264pay name=pay0 pt=96 config-interval=-1 )")
        mounts.add_factory("/video", factory)
    if not server.attach(None):
        sys.exit(f"port {sys.argv[1]} cannot be opened")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
