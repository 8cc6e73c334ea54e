// How a node sends a goal and hears of its end.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <builtin_interfaces/msg/time.hpp>
#include <qwen3vl_ros/action/ask_image.hpp>

namespace qwen3vl_bt
{

using AskImage = qwen3vl_ros::action::AskImage;

/// The end of a goal. `answered`: with an answer; otherwise `error_code` and `error_msg` say why not. The code is a
/// constant of AskImage, or Outcome::UNREACHABLE where no node replied.
struct Outcome
{
  static constexpr std::uint16_t UNREACHABLE = 27399;

  bool answered = false;
  AskImage::Result result;
  std::uint16_t error_code = 0;
  std::string error_msg;
};

/// Sends one goal at a time. No method waits.
class Transport
{
public:
  virtual ~Transport() = default;

  /// Send a goal to the action `server`. The goal before it must have ended, or been cancelled.
  virtual void send(const std::string & server, const AskImage::Goal & goal) = 0;

  /// Return the end of the goal, once it has ended.
  virtual std::optional<Outcome> poll() = 0;

  /// Have the goal cancelled, also where the node has not accepted it yet.
  virtual void cancel() = 0;

  /// Return the time of the node's clock.
  virtual builtin_interfaces::msg::Time now() = 0;
};

using TransportFactory = std::function<std::unique_ptr<Transport>()>;

}  // namespace qwen3vl_bt
