# Node, camera and gateway on ROS 2's own image, with colcon, as on a robot; also for ARM.
#
#     docker build -f deploy/ros.Dockerfile -t qwen3vl_ros:kilted --build-arg ROS_DISTRO=kilted .
ARG ROS_DISTRO=kilted
FROM ros:${ROS_DISTRO}
ARG ROS_DISTRO
SHELL ["/bin/bash", "-c"]
WORKDIR /opt/qwen3vl_ros
COPY . src/qwen3vl_ros
# What pip installs lies beside apt's packages, which it must not replace; apt's cv_bridge wants numpy 1. Drake, which
# draws the simulated camera, is there for x86-64 only.
ENV PYTHONUSERBASE=/opt/qwen3vl_ros/python PIP_BREAK_SYSTEM_PACKAGES=1
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-pip libegl1 libgl1-mesa-dri \
 && rosdep update --rosdistro ${ROS_DISTRO} \
 && rosdep install --from-paths src --ignore-src --default-yes \
 && case $(uname -m) in x86_64) camera="-r src/qwen3vl_ros/requirements/sim.txt" ;; *) camera="av>=15" ;; esac \
 && pip install --user --no-cache-dir -r src/qwen3vl_ros/requirements/workspace.txt $camera "numpy<2" \
 && source /opt/ros/${ROS_DISTRO}/setup.bash \
 && colcon build --packages-select qwen3vl_ros \
 && rm -rf build log /var/lib/apt/lists/*
RUN id ubuntu &> /dev/null || useradd --uid 1000 --create-home ubuntu; \
    usermod --append --groups video ubuntu && install -d -o ubuntu -g ubuntu /data
# ROS's own entry point sources /opt/ros; ours is a workspace on top of it.
RUN printf '#!/bin/bash\nsource /opt/ros/%s/setup.bash\nsource /opt/qwen3vl_ros/install/setup.bash\nexec "$@"\n' ${ROS_DISTRO} \
    > /opt/qwen3vl_ros/in_workspace && chmod 755 /opt/qwen3vl_ros/in_workspace \
 && install -m 755 src/qwen3vl_ros/deploy/entrypoint.sh /opt/qwen3vl_ros/entrypoint.sh
ENV PYTHONDONTWRITEBYTECODE=1 HOME=/data ROS_LOG_DIR=/tmp/ros_log
USER ubuntu
WORKDIR /data
VOLUME /data
HEALTHCHECK --interval=30s --timeout=20s --start-period=120s \
  CMD ["/opt/qwen3vl_ros/in_workspace", "qwen3vl-ros", "status", "--wait", "10"]
ENTRYPOINT ["/opt/qwen3vl_ros/in_workspace", "/opt/qwen3vl_ros/entrypoint.sh"]
CMD ["node"]
