# Node, camera and gateway without ROS 2's own packages: Debian, Python and the ROS 2 wheels. x86-64.
#
#     docker build -f deploy/slim.Dockerfile -t qwen3vl_ros .
#     docker run --rm --network host --ipc host --read-only --tmpfs /tmp -v qwen3vl_ros:/data qwen3vl_ros
FROM debian:bookworm-slim AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates g++ make python3-dev python3-venv \
                    libegl1 libgl1-mesa-dri libglib2.0-0
WORKDIR /opt/qwen3vl_ros
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip make build

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 libegl1 libgl1-mesa-dri libglib2.0-0 libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --groups video robot \
 && install -d -o robot -g robot /data
COPY --from=build /opt/qwen3vl_ros/.venv /opt/qwen3vl_ros/.venv
COPY --chmod=755 deploy/entrypoint.sh /opt/qwen3vl_ros/entrypoint.sh
# The file system may be read-only: models, caches and recordings go to /data, ROS's logs to /tmp.
ENV PATH=/opt/qwen3vl_ros/.venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 HOME=/data ROS_LOG_DIR=/tmp/ros_log
USER robot
WORKDIR /data
VOLUME /data
HEALTHCHECK --interval=30s --timeout=20s --start-period=120s CMD ["qwen3vl-ros", "status", "--wait", "10"]
ENTRYPOINT ["/opt/qwen3vl_ros/entrypoint.sh"]
CMD ["node"]
