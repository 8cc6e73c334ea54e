// VlmAsk, VlmLocate and VlmCheck: action nodes for BehaviorTree.CPP 4. The ports are those of docs/behaviours.md.

#pragma once

#include <memory>
#include <string>

#include <behaviortree_cpp/action_node.h>
#include <behaviortree_cpp/bt_factory.h>

#include "qwen3vl_bt/transport.hpp"

namespace qwen3vl_bt
{

/// Sends a goal at its start, is RUNNING until it has ended, and cancels it where it is halted.
class VlmAction : public BT::StatefulActionNode
{
public:
  VlmAction(const std::string & name, const BT::NodeConfig & config, const TransportFactory & make_transport);

  BT::NodeStatus onStart() override;
  BT::NodeStatus onRunning() override;
  void onHalted() override;

protected:
  /// Return the ports of all nodes and `more`.
  static BT::PortsList ports(BT::PortsList more);

  /// Return the goal, with what is asked filled in.
  virtual AskImage::Goal question() = 0;

  /// Write the answer; return RUNNING where another question was sent.
  virtual BT::NodeStatus take(const AskImage::Result & result) = 0;

  /// Send a question about a frame that is not older than `not_before` (zero: any).
  void ask(const builtin_interfaces::msg::Time & not_before);

  /// Write why it failed, and return FAILURE.
  BT::NodeStatus fail(std::uint16_t code, const std::string & why);

  /// Return the input port `key`. Throws BT::RuntimeError where it is missing or cannot be read.
  template<typename T>
  T input(const std::string & key)
  {
    auto value = getInput<T>(key);
    if (!value) {
      throw BT::RuntimeError(name() + ": the port " + key + " has no value that makes sense: " + value.error());
    }
    return value.value();
  }

private:
  std::unique_ptr<Transport> transport_;
};

/// Asks a question. SUCCESS with an answer.
class VlmAsk : public VlmAction
{
public:
  using VlmAction::VlmAction;
  static BT::PortsList providedPorts();

protected:
  AskImage::Goal question() override;
  BT::NodeStatus take(const AskImage::Result & result) override;
};

/// Asks where something is. SUCCESS with its position.
class VlmLocate : public VlmAction
{
public:
  using VlmAction::VlmAction;
  static BT::PortsList providedPorts();

protected:
  AskImage::Goal question() override;
  BT::NodeStatus take(const AskImage::Result & result) override;
};

/// Asks a question that yes or no answers. SUCCESS where `needed` of at most `of` answers say yes.
class VlmCheck : public VlmAction
{
public:
  using VlmAction::VlmAction;
  static BT::PortsList providedPorts();
  BT::NodeStatus onStart() override;

protected:
  AskImage::Goal question() override;
  BT::NodeStatus take(const AskImage::Result & result) override;

private:
  unsigned asked_ = 0;
  unsigned yes_ = 0;
};

/// Make VlmAsk, VlmLocate and VlmCheck known to a factory.
void register_nodes(BT::BehaviorTreeFactory & factory, const TransportFactory & make_transport);

}  // namespace qwen3vl_bt
