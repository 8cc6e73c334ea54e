#include "ros_transport.hpp"

#include <chrono>
#include <future>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>

#include <rclcpp/rclcpp.hpp>
#include <rclcpp_action/rclcpp_action.hpp>

namespace qwen3vl_bt
{

namespace
{

using Client = rclcpp_action::Client<AskImage>;
using GoalHandle = rclcpp_action::ClientGoalHandle<AskImage>;
using SteadyClock = std::chrono::steady_clock;

/// Time to find a node, and for its result to arrive after the goal's own timeout.
constexpr auto SERVER_TIMEOUT = std::chrono::seconds(5);

/// A ROS node of our own and the thread that spins it: the node of Nav2's blackboard has another type in each
/// distribution, and a goal is to be cancelled also when nobody ticks any more.
class Spinner
{
public:
  static std::shared_ptr<Spinner> shared()
  {
    static std::mutex mutex;
    static std::weak_ptr<Spinner> existing;
    const std::lock_guard<std::mutex> lock(mutex);
    auto spinner = existing.lock();
    if (!spinner) {
      existing = spinner = std::make_shared<Spinner>();
    }
    return spinner;
  }

  Spinner()
  {
    if (!rclcpp::ok()) {
      throw std::runtime_error("The nodes of qwen3vl_bt need rclcpp: call rclcpp::init() before the tree is made.");
    }
    // A launch file's name for the process's node is not for this one.
    node = std::make_shared<rclcpp::Node>(
      "vlm_bt_client", rclcpp::NodeOptions().arguments({"--ros-args", "-r", "__node:=vlm_bt_client", "--"}));
    executor_.add_node(node);
    // Not spin(): a cancel() that comes before it has begun would be lost.
    thread_ = std::thread([this, ended = end_.get_future().share()] {executor_.spin_until_future_complete(ended);});
  }

  ~Spinner()
  {
    end_.set_value();
    executor_.cancel();
    thread_.join();
  }

  rclcpp::Node::SharedPtr node;

private:
  std::promise<void> end_;
  rclcpp::executors::SingleThreadedExecutor executor_;
  std::thread thread_;
};

/// What the callbacks of one goal, on the spinning thread, and the tree's thread share.
struct State
{
  std::mutex mutex;
  bool cancelled = false;
  GoalHandle::SharedPtr handle;
  std::optional<Outcome> outcome;
};

Outcome unreachable(std::string why)
{
  Outcome outcome;
  outcome.error_code = Outcome::UNREACHABLE;
  outcome.error_msg = std::move(why);
  return outcome;
}

Outcome outcome_of(const GoalHandle::WrappedResult & wrapped)
{
  if (wrapped.code == rclcpp_action::ResultCode::UNKNOWN || !wrapped.result) {
    return unreachable("The vlm node does not know the goal any more: it was started anew.");
  }
  Outcome outcome;
  outcome.answered = wrapped.code == rclcpp_action::ResultCode::SUCCEEDED;
  outcome.result = *wrapped.result;
  outcome.error_code = wrapped.result->error_code;
  outcome.error_msg = wrapped.result->error_msg;
  return outcome;
}

/// Cancel a goal, if there is one that has not ended. Not with a State's mutex held: the client has locks of its own.
void cancel_goal(const Client::SharedPtr & client, const GoalHandle::SharedPtr & handle)
{
  if (!client || !handle || !rclcpp::ok()) {
    return;
  }
  try {
    client->async_cancel_goal(handle);
  } catch (const rclcpp_action::exceptions::UnknownGoalHandleError &) {
    // It has ended in this very moment.
  }
}

class RosTransport : public Transport
{
public:
  ~RosTransport() override
  {
    cancel();
  }

  void send(const std::string & server, const AskImage::Goal & goal) override
  {
    if (!client_ || server != server_) {
      client_ = rclcpp_action::create_client<AskImage>(spinner_->node, server);
      server_ = server;
    }
    state_ = std::make_shared<State>();
    waiting_ = goal;
    deadline_ = SteadyClock::now() + SERVER_TIMEOUT;
  }

  std::optional<Outcome> poll() override
  {
    if (!state_) {
      return std::nullopt;
    }
    if (waiting_ && client_->action_server_is_ready()) {
      deadline_ = SteadyClock::now() + SERVER_TIMEOUT + std::chrono::seconds(waiting_->timeout.sec + 1);
      send_now(*waiting_);
      waiting_.reset();
    }
    {
      const std::lock_guard<std::mutex> lock(state_->mutex);
      if (state_->outcome) {
        return state_->outcome;
      }
    }
    if (SteadyClock::now() < deadline_) {
      return std::nullopt;
    }
    const auto why = waiting_ ?
      "No node serves " + server_ + ". Start one with `qwen3vl-ros node`, or set the port server." :
      "A node serves " + server_ + ", but its result is overdue.";
    cancel();
    return unreachable(why);
  }

  void cancel() override
  {
    waiting_.reset();
    if (!state_) {
      return;
    }
    const auto state = std::exchange(state_, nullptr);
    GoalHandle::SharedPtr handle;
    {
      const std::lock_guard<std::mutex> lock(state->mutex);
      state->cancelled = true;  // what is not accepted yet is cancelled when it is
      if (!state->outcome) {
        handle = state->handle;
      }
    }
    cancel_goal(client_, handle);
  }

  builtin_interfaces::msg::Time now() override
  {
    return spinner_->node->now();
  }

private:
  void send_now(const AskImage::Goal & goal)
  {
    Client::SendGoalOptions options;
    options.goal_response_callback =
      [state = state_, client = std::weak_ptr<Client>(client_)](GoalHandle::SharedPtr handle) {
        bool cancelled = false;
        {
          const std::lock_guard<std::mutex> lock(state->mutex);
          state->handle = handle;
          cancelled = state->cancelled;
          if (!handle) {
            state->outcome = unreachable("The vlm node rejected the goal: it is not active.");
          }
        }
        if (cancelled) {
          cancel_goal(client.lock(), handle);
        }
      };
    options.result_callback = [state = state_](const GoalHandle::WrappedResult & wrapped) {
        const std::lock_guard<std::mutex> lock(state->mutex);
        state->outcome = outcome_of(wrapped);
      };
    client_->async_send_goal(goal, options);
  }

  std::shared_ptr<Spinner> spinner_ = Spinner::shared();
  Client::SharedPtr client_;
  std::string server_;
  std::shared_ptr<State> state_;
  std::optional<AskImage::Goal> waiting_;
  SteadyClock::time_point deadline_;
};

}  // namespace

std::unique_ptr<Transport> make_ros_transport()
{
  return std::make_unique<RosTransport>();
}

}  // namespace qwen3vl_bt
