// A Transport over a ROS action client.

#pragma once

#include <memory>

#include "qwen3vl_bt/transport.hpp"

namespace qwen3vl_bt
{

/// Make a transport. All of a process share a ROS node, vlm_bt_client, and a thread that spins it.
std::unique_ptr<Transport> make_ros_transport();

}  // namespace qwen3vl_bt
