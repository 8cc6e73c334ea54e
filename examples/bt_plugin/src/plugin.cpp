// What BehaviorTree.CPP's registerFromPlugin() and Nav2's plugin_lib_names look for.

#include <behaviortree_cpp/bt_factory.h>

#include "qwen3vl_bt/nodes.hpp"
#include "ros_transport.hpp"

BT_REGISTER_NODES(factory)
{
  qwen3vl_bt::register_nodes(factory, qwen3vl_bt::make_ros_transport);
}
