/* A webcam where there is none: preloaded into a process, it answers what FFmpeg asks /dev/full, a device that is always
 * there, as a driver of Video4Linux does (linux/videodev2.h): 25 images a second of 512x64, each 20 ms after it was taken.
 *
 *   DOUBLE_JPEG=FILE     the camera sends this JPEG; else uncompressed images (YUYV) that show when they were taken, as
 *                        those of stream_clock.py do
 *   DOUBLE_UNPLUGGED=FILE  while this file exists the camera is not there
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 512, HEIGHT = 64, BITS = 32, SIZE = 1 << 17, BUFFERS = 4 };
static const long long PERIOD = 40000000, DELAY = 20000000; /* ns */

static int camera = -1;
static char *memory;
static int queue[BUFFERS], first, queued;
static long long next;

static int unplugged(void) {
  const char *file = getenv("DOUBLE_UNPLUGGED");
  return file && access(file, F_OK) == 0;
}

static unsigned pixelformat(void) { return getenv("DOUBLE_JPEG") ? V4L2_PIX_FMT_MJPEG : V4L2_PIX_FMT_YUYV; }

static long long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void wait_until(long long moment) {
  while (now() < moment) usleep((moment - now()) / 1000 + 1);
}

static int open_camera(const char *path) {
  if (strcmp(path, "/dev/full")) return -2;
  if (unplugged()) {
    errno = ENODEV;
    return -1;
  }
  camera = memfd_create("camera", 0);
  if (ftruncate(camera, SIZE * BUFFERS)) return -1;
  memory = mmap(NULL, SIZE * BUFFERS, PROT_READ | PROT_WRITE, MAP_SHARED, camera, 0);
  first = queued = 0;
  next = now();
  return camera;
}

#define OPEN(name)                                                                         \
  int name(const char *path, int flags, ...) {                                             \
    int opened = open_camera(path);                                                        \
    if (opened != -2) return opened;                                                       \
    va_list more;                                                                          \
    va_start(more, flags);                                                                 \
    int mode = va_arg(more, int);                                                          \
    va_end(more);                                                                          \
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode);  \
  }
OPEN(open)
OPEN(open64)

static int draw(char *image, long long moment) {
  const char *file = getenv("DOUBLE_JPEG");
  if (file) {
    FILE *jpeg = fopen(file, "rb");
    int size = fread(image, 1, SIZE, jpeg);
    fclose(jpeg);
    return size;
  }
  unsigned milliseconds = moment / 1000000;
  for (int pixel = 0; pixel < WIDTH * HEIGHT; pixel++) {
    int bit = pixel % WIDTH / (WIDTH / BITS);
    image[2 * pixel] = milliseconds >> bit & 1 ? 230 : 25;
    image[2 * pixel + 1] = (char)128;
  }
  return WIDTH * HEIGHT * 2;
}

static int next_image(struct v4l2_buffer *buffer) {
  wait_until(next + DELAY);
  if (unplugged()) {
    errno = ENODEV;
    return -1;
  }
  if (!queued) {
    errno = EAGAIN;
    return -1;
  }
  buffer->index = queue[first];
  first = (first + 1) % BUFFERS;
  queued--;
  buffer->bytesused = draw(memory + buffer->index * SIZE, next);
  buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
  buffer->timestamp.tv_sec = next / 1000000000;
  buffer->timestamp.tv_usec = next % 1000000000 / 1000;
  next = next + PERIOD > now() - DELAY ? next + PERIOD : now();
  return 0;
}

int ioctl(int file, unsigned long request, ...) {
  va_list more;
  va_start(more, request);
  void *argument = va_arg(more, void *);
  va_end(more);
  if (camera < 0 || file != camera)
    return ((int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl"))(file, request, argument);
  struct v4l2_buffer *buffer = argument;
  switch (request) {
    case VIDIOC_QUERYCAP: {
      struct v4l2_capability *can = argument;
      memset(can, 0, sizeof *can);
      can->capabilities = can->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
      return 0;
    }
    case VIDIOC_G_INPUT:
      *(int *)argument = 0;
      return 0;
    case VIDIOC_ENUMINPUT:
      return 0;
    case VIDIOC_ENUM_FMT: {
      struct v4l2_fmtdesc *format = argument;
      if (format->index) break;
      format->pixelformat = pixelformat();
      return 0;
    }
    case VIDIOC_G_FMT:
    case VIDIOC_S_FMT: {
      struct v4l2_pix_format *format = &((struct v4l2_format *)argument)->fmt.pix;
      format->width = WIDTH;
      format->height = HEIGHT;
      format->pixelformat = pixelformat();
      format->field = V4L2_FIELD_NONE;
      format->bytesperline = WIDTH * 2;
      format->sizeimage = getenv("DOUBLE_JPEG") ? SIZE : WIDTH * HEIGHT * 2;
      return 0;
    }
    case VIDIOC_G_PARM: {
      struct v4l2_captureparm *rate = &((struct v4l2_streamparm *)argument)->parm.capture;
      memset(rate, 0, sizeof *rate);
      rate->timeperframe = (struct v4l2_fract){1, 25};
      return 0;
    }
    case VIDIOC_REQBUFS:
      ((struct v4l2_requestbuffers *)argument)->count = BUFFERS;
      return 0;
    case VIDIOC_QUERYBUF:
      buffer->length = SIZE;
      buffer->m.offset = buffer->index * SIZE;
      return 0;
    case VIDIOC_QBUF:
      queue[(first + queued++) % BUFFERS] = buffer->index;
      return 0;
    case VIDIOC_STREAMON:
    case VIDIOC_STREAMOFF:
      return 0;
    case VIDIOC_DQBUF:
      return next_image(buffer);
  }
  errno = EINVAL;
  return -1;
}
