#include "qwen3vl_bt/nodes.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <utility>
#include <vector>

#include <geometry_msgs/msg/pose_stamped.hpp>

namespace qwen3vl_bt
{

namespace
{

using Seconds = double;

builtin_interfaces::msg::Duration duration(Seconds seconds)
{
  builtin_interfaces::msg::Duration message;
  message.sec = static_cast<std::int32_t>(seconds);
  message.nanosec = static_cast<std::uint32_t>((seconds - message.sec) * 1e9);
  return message;
}

builtin_interfaces::msg::Time just_after(builtin_interfaces::msg::Time stamp)
{
  if (++stamp.nanosec == 1000000000u) {
    stamp.nanosec = 0;
    ++stamp.sec;
  }
  return stamp;
}

/// Return `frame` without the leading slash that tf had.
std::string plain(const std::string & frame)
{
  return frame.substr(std::min(frame.find_first_not_of('/'), frame.size()));
}

}  // namespace

VlmAction::VlmAction(
  const std::string & name, const BT::NodeConfig & config, const TransportFactory & make_transport)
: BT::StatefulActionNode(name, config), transport_(make_transport())
{
}

BT::PortsList VlmAction::ports(BT::PortsList more)
{
  const BT::PortsList common = {
    BT::InputPort<std::string>("server", "vlm/ask_image", "name of the action"),
    BT::InputPort<std::vector<std::string>>("cameras", "", "names of cameras, separated by ;"),
    BT::InputPort<Seconds>("timeout", 60.0, "seconds that the question may take, its time in the queue included"),
    BT::InputPort<bool>("new_frame", false, "take only frames that are stamped after the start of the node"),
    BT::OutputPort<std::uint16_t>("error_code", "0, or a constant of AskImage, or 27399: no node replied"),
    BT::OutputPort<std::string>("error_msg", "why it failed, a sentence"),
  };
  more.insert(common.begin(), common.end());
  return more;
}

BT::NodeStatus VlmAction::onStart()
{
  setOutput("error_code", std::uint16_t{0});
  setOutput("error_msg", std::string());
  ask(input<bool>("new_frame") ? transport_->now() : builtin_interfaces::msg::Time());
  return onRunning();
}

BT::NodeStatus VlmAction::onRunning()
{
  const auto outcome = transport_->poll();
  if (!outcome) {
    return BT::NodeStatus::RUNNING;
  }
  return outcome->answered ? take(outcome->result) : fail(outcome->error_code, outcome->error_msg);
}

void VlmAction::onHalted()
{
  transport_->cancel();
}

void VlmAction::ask(const builtin_interfaces::msg::Time & not_before)
{
  const auto timeout = input<Seconds>("timeout");
  if (!(std::isfinite(timeout) && timeout > 0.0 && timeout < 1e9)) {
    throw BT::RuntimeError(name() + ": the port timeout is a number of seconds greater than zero.");
  }
  AskImage::Goal goal = question();
  for (const auto & camera : input<std::vector<std::string>>("cameras")) {
    if (!camera.empty()) {
      goal.cameras.push_back(camera);
    }
  }
  goal.timeout = duration(timeout);
  goal.not_before = not_before;
  transport_->send(input<std::string>("server"), goal);
}

BT::NodeStatus VlmAction::fail(std::uint16_t code, const std::string & why)
{
  setOutput("error_code", code);
  setOutput("error_msg", why);
  return BT::NodeStatus::FAILURE;
}

BT::PortsList VlmAsk::providedPorts()
{
  return ports({
    BT::InputPort<std::string>("prompt", "the question, or what fills the main slot of the task"),
    BT::InputPort<std::string>("task", "", "name of a ready-made task"),
    BT::InputPort<std::string>("response_schema", "", "JSON Schema that the answer must satisfy"),
    BT::OutputPort<std::string>("answer", "the text"),
    BT::OutputPort<std::string>("json", "the JSON, with response_schema or a task that has one"),
  });
}

AskImage::Goal VlmAsk::question()
{
  AskImage::Goal goal;
  goal.prompt = input<std::string>("prompt");
  goal.task = input<std::string>("task");
  goal.response_schema = input<std::string>("response_schema");
  return goal;
}

BT::NodeStatus VlmAsk::take(const AskImage::Result & result)
{
  setOutput("answer", result.text);
  setOutput("json", result.json);
  return BT::NodeStatus::SUCCESS;
}

BT::PortsList VlmLocate::providedPorts()
{
  return ports({
    BT::InputPort<std::string>("what", "what to look for, such as red ball"),
    BT::InputPort<std::string>("frame", "", "tf frame of the position; empty: that of the camera, or of the vlm node"),
    BT::InputPort<double>("score_threshold", 0.0, "what the model is less sure of does not count; 0 to 1"),
    BT::OutputPort<geometry_msgs::msg::PoseStamped>("pose", "its position, with the orientation of the frame"),
    BT::OutputPort<double>("score", "how sure the model is; -1: unknown"),
  });
}

AskImage::Goal VlmLocate::question()
{
  const auto threshold = input<double>("score_threshold");
  if (!(threshold >= 0.0 && threshold <= 1.0)) {
    throw BT::RuntimeError(name() + ": the port score_threshold is a number from 0 to 1.");
  }
  AskImage::Goal goal;
  goal.task = "locate";
  goal.prompt = input<std::string>("what");
  goal.target_frame = input<std::string>("frame");
  // The vlm node leaves nothing out, so that a low score can be told from nothing.
  goal.score_threshold = 0.0F;
  return goal;
}

BT::NodeStatus VlmLocate::take(const AskImage::Result & result)
{
  const auto what = input<std::string>("what");
  const auto frame = input<std::string>("frame");
  const auto threshold = input<double>("score_threshold");
  const auto best = std::max_element(
    result.regions.begin(), result.regions.end(), [](const auto & one, const auto & other) {
      return std::pair(one.score, one.has_position) < std::pair(other.score, other.has_position);
    });
  if (best == result.regions.end()) {
    return fail(0, "'" + what + "' is not seen in the image.");
  }
  setOutput("score", static_cast<double>(best->score));
  if (threshold > 0.0 && best->score < static_cast<float>(threshold)) {
    std::ostringstream why;
    if (best->score < 0.0F) {
      why << "'" << what << "' is seen, but the engine '" << result.engine << "' tells no score to hold against "
          << "score_threshold: leave it out, or use the engine llama.";
    } else {
      why << "'" << what << "' is seen with a score of " << best->score << " only, below " << threshold << ".";
    }
    return fail(0, why.str());
  }
  if (!best->has_position) {
    return fail(0, "'" + what + "' is seen, but its position is not known: " + best->position_error);
  }
  const auto & header = best->position.header;
  if (!frame.empty() && plain(header.frame_id) != plain(frame)) {
    return fail(
      0, "'" + what + "' is seen, but its position came in the frame '" + header.frame_id + "', not in '" + frame +
      "': the vlm node did not transform it.");
  }
  geometry_msgs::msg::PoseStamped pose;
  pose.header = header;
  pose.pose.position = best->position.point;
  pose.pose.orientation.w = 1.0;
  setOutput("pose", pose);
  return BT::NodeStatus::SUCCESS;
}

BT::PortsList VlmCheck::providedPorts()
{
  return ports({
    BT::InputPort<std::string>("question", "such as Is the door open?"),
    BT::InputPort<double>("yes_threshold", 0.7, "an answer says yes from this probability on"),
    BT::InputPort<unsigned>("needed", 1u, "answers that must say yes"),
    BT::InputPort<unsigned>("of", 1u, "of so many that are asked at most, each about a newer frame"),
    BT::OutputPort<double>("probability", "of yes, in the last answer"),
  });
}

BT::NodeStatus VlmCheck::onStart()
{
  const auto needed = input<unsigned>("needed");
  if (needed < 1 || needed > input<unsigned>("of")) {
    throw BT::RuntimeError(name() + ": the port needed is a number from 1 to the port of.");
  }
  asked_ = yes_ = 0;
  return VlmAction::onStart();
}

AskImage::Goal VlmCheck::question()
{
  AskImage::Goal goal;
  goal.task = "yes_no";
  goal.prompt = input<std::string>("question");
  return goal;
}

BT::NodeStatus VlmCheck::take(const AskImage::Result & result)
{
  if (result.probability < 0.0F) {
    return fail(
      0, "The engine '" + result.engine + "' tells no probability of its answer '" + result.text +
      "': use llama, or openai with a server that has logprobs.");
  }
  setOutput("probability", static_cast<double>(result.probability));
  ++asked_;
  // Compared as the message has it: 0.7 is a little less as a float.
  yes_ += result.probability >= static_cast<float>(input<double>("yes_threshold")) ? 1 : 0;
  const auto needed = input<unsigned>("needed");
  if (yes_ >= needed) {
    return BT::NodeStatus::SUCCESS;
  }
  const auto of = input<unsigned>("of");
  if (yes_ + (of - asked_) >= needed && !result.image_headers.empty()) {
    ask(just_after(result.image_headers.front().stamp));
    return BT::NodeStatus::RUNNING;
  }
  return fail(
    0, std::to_string(yes_) + " of " + std::to_string(asked_) + " answers said yes, " + std::to_string(needed) +
    " are needed.");
}

void register_nodes(BT::BehaviorTreeFactory & factory, const TransportFactory & make_transport)
{
  factory.registerNodeType<VlmAsk>("VlmAsk", make_transport);
  factory.registerNodeType<VlmLocate>("VlmLocate", make_transport);
  factory.registerNodeType<VlmCheck>("VlmCheck", make_transport);
}

}  // namespace qwen3vl_bt
