// The nodes in trees of XML, on a transport whose answers this program writes. Ends with 0 where all is as promised.

#include <cstdlib>
#include <deque>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <geometry_msgs/msg/pose_stamped.hpp>

#include "qwen3vl_bt/nodes.hpp"

using qwen3vl_bt::AskImage;
using qwen3vl_bt::Outcome;

namespace
{

/// What the transports of a tree have in common.
struct Vlm
{
  std::vector<AskImage::Goal> goals;
  std::deque<Outcome> outcomes;
  int cancelled = 0;
};

class WrittenTransport : public qwen3vl_bt::Transport
{
public:
  explicit WrittenTransport(Vlm & vlm)
  : vlm_(vlm) {}

  void send(const std::string &, const AskImage::Goal & goal) override {vlm_.goals.push_back(goal);}

  std::optional<Outcome> poll() override
  {
    if (vlm_.outcomes.empty()) {
      return std::nullopt;
    }
    const Outcome outcome = vlm_.outcomes.front();
    vlm_.outcomes.pop_front();
    return outcome;
  }

  void cancel() override {++vlm_.cancelled;}

  builtin_interfaces::msg::Time now() override
  {
    builtin_interfaces::msg::Time now;
    now.sec = 42;
    return now;
  }

private:
  Vlm & vlm_;
};

void expect(bool promise, const std::string & what)
{
  if (!promise) {
    std::cerr << "broken: " << what << "\n";
    std::exit(1);
  }
}

struct Robot
{
  Vlm vlm;
  BT::BehaviorTreeFactory factory;
  BT::Tree tree;

  explicit Robot(const std::string & node)
  {
    qwen3vl_bt::register_nodes(factory, [this] {return std::make_unique<WrittenTransport>(vlm);});
    tree = factory.createTreeFromText(
      "<root BTCPP_format=\"4\"><BehaviorTree ID=\"T\">" + node + "</BehaviorTree></root>");
  }

  BT::NodeStatus tick() {return tree.tickExactlyOnce();}

  template<typename T>
  T at(const std::string & key) {return tree.rootBlackboard()->get<T>(key);}
};

Outcome answer(float probability = -1.0F)
{
  Outcome outcome;
  outcome.answered = true;
  outcome.result.text = "yes";
  outcome.result.engine = "llama";
  outcome.result.probability = probability;
  outcome.result.image_headers.resize(1);
  outcome.result.image_headers[0].stamp.sec = 7;
  outcome.result.image_headers[0].stamp.nanosec = 999999999;
  return outcome;
}

Outcome place(float score, const std::string & frame)
{
  Outcome outcome = answer();
  outcome.result.regions.resize(1);
  auto & region = outcome.result.regions[0];
  region.score = score;
  region.has_position = !frame.empty();
  region.position_error = "NO_DEPTH: none.";
  region.position.header.frame_id = frame;
  region.position.point.x = 1.5;
  return outcome;
}

void ask()
{
  Robot robot("<VlmAsk prompt=\"What is it?\" cameras=\"front;wrist\" timeout=\"2.5\" answer=\"{answer}\"/>");
  expect(robot.tick() == BT::NodeStatus::RUNNING, "a node runs until its answer is there");
  expect(robot.vlm.goals.size() == 1, "it asks once");
  const auto & goal = robot.vlm.goals[0];
  expect(goal.prompt == "What is it?" && goal.cameras == std::vector<std::string>({"front", "wrist"}), "the goal");
  expect(goal.timeout.sec == 2 && goal.timeout.nanosec == 500000000u && goal.not_before.sec == 0, "the goal's times");
  robot.vlm.outcomes.push_back(answer());
  expect(robot.tick() == BT::NodeStatus::SUCCESS && robot.at<std::string>("answer") == "yes", "the answer is written");
}

void fail_and_halt()
{
  Robot robot("<VlmAsk prompt=\"What?\" new_frame=\"true\" error_code=\"{code}\" error_msg=\"{why}\"/>");
  robot.tick();
  expect(robot.vlm.goals[0].cameras.empty() && robot.vlm.goals[0].not_before.sec == 42, "defaults, and new frames");
  robot.tree.haltTree();
  expect(robot.vlm.cancelled == 1, "what is halted is cancelled");
  robot.tick();
  Outcome busy;
  busy.error_code = AskImage::Result::BUSY;
  busy.error_msg = "the queue is full.";
  robot.vlm.outcomes.push_back(busy);
  expect(robot.tick() == BT::NodeStatus::FAILURE, "an error is a failure");
  expect(robot.at<std::uint16_t>("code") == 27306 && robot.at<std::string>("why") == busy.error_msg, "its reason");
}

void locate()
{
  const std::string node =
    "<VlmLocate what=\"red ball\" frame=\"map\" score_threshold=\"0.7\" pose=\"{pose}\" error_msg=\"{why}\"/>";
  Robot robot(node);
  robot.tick();
  const auto & goal = robot.vlm.goals[0];
  expect(goal.task == "locate" && goal.target_frame == "map" && goal.score_threshold == 0.0F, "the goal of locate");
  robot.vlm.outcomes.push_back(place(0.9F, "map"));
  expect(robot.tick() == BT::NodeStatus::SUCCESS, "a position is a success");
  const auto pose = robot.at<geometry_msgs::msg::PoseStamped>("pose");
  expect(pose.header.frame_id == "map" && pose.pose.position.x == 1.5 && pose.pose.orientation.w == 1.0, "the pose");
  const std::vector<std::pair<Outcome, std::string>> reasons = {
    {answer(), "is not seen"}, {place(0.4F, "map"), "below 0.7"}, {place(-1.0F, "map"), "tells no score"},
    {place(0.9F, ""), "NO_DEPTH"}, {place(0.9F, "odom"), "came in the frame 'odom', not in 'map'"}};
  for (const auto & [outcome, says] : reasons) {
    robot.tick();
    robot.vlm.outcomes.push_back(outcome);
    expect(robot.tick() == BT::NodeStatus::FAILURE, says);
    expect(robot.at<std::string>("why").find(says) != std::string::npos, robot.at<std::string>("why"));
  }
}

void check()
{
  Robot robot("<VlmCheck question=\"Is it open?\" needed=\"2\" of=\"3\" probability=\"{p}\" error_msg=\"{why}\"/>");
  const std::vector<std::pair<std::vector<float>, BT::NodeStatus>> cases = {
    {{0.9F, 0.8F}, BT::NodeStatus::SUCCESS}, {{0.9F, 0.1F, 0.7F}, BT::NodeStatus::SUCCESS},
    {{0.1F, 0.69F}, BT::NodeStatus::FAILURE}, {{0.1F, 0.9F, 0.2F}, BT::NodeStatus::FAILURE}};
  for (const auto & [probabilities, status] : cases) {
    robot.vlm.goals.clear();
    auto now = robot.tick();
    for (const auto probability : probabilities) {
      expect(now == BT::NodeStatus::RUNNING, "it runs until the outcome is certain");
      robot.vlm.outcomes.push_back(answer(probability));
      now = robot.tick();
    }
    expect(now == status && robot.vlm.goals.size() == probabilities.size(), "needed of at most of");
    expect(robot.vlm.goals[0].not_before.sec == 0 && robot.vlm.goals[1].not_before.sec == 8, "about newer frames");
  }
  robot.tick();
  robot.vlm.outcomes.push_back(answer());
  expect(robot.tick() == BT::NodeStatus::FAILURE, "without a probability it cannot tell");
}

void tree_of_file(const std::string & file)
{
  Vlm vlm;
  BT::BehaviorTreeFactory factory;
  qwen3vl_bt::register_nodes(factory, [&vlm] {return std::make_unique<WrittenTransport>(vlm);});
  auto tree = factory.createTreeFromFile(file);
  for (const auto & outcome : {place(0.9F, "map"), answer(0.9F), answer(0.9F), answer()}) {
    vlm.outcomes.push_back(outcome);
  }
  auto status = BT::NodeStatus::RUNNING;
  for (int tick = 0; tick < 10 && status == BT::NodeStatus::RUNNING; ++tick) {
    status = tree.tickExactlyOnce();
  }
  expect(status == BT::NodeStatus::SUCCESS, "the tree of the file");
  std::ifstream stream(file);
  const std::string text(std::istreambuf_iterator<char>(stream), {});
  for (const std::string id : {"VlmAsk", "VlmLocate", "VlmCheck"}) {
    const auto begin = text.find("<Action ID=\"" + id + "\">");
    expect(begin != std::string::npos, "the file has a model of " + id);
    const auto model = text.substr(begin, text.find("</Action>", begin) - begin);
    std::size_t ports = 0;
    for (auto at = model.find("_port name="); at != std::string::npos; at = model.find("_port name=", at + 1)) {
      ++ports;
    }
    expect(ports == factory.manifests().at(id).ports.size(), "the model has as many ports as " + id);
    for (const auto & [port, info] : factory.manifests().at(id).ports) {
      const std::string kind = info.direction() == BT::PortDirection::OUTPUT ? "output" : "input";
      expect(model.find("<" + kind + "_port name=\"" + port + "\"") != std::string::npos, id + " has " + port);
    }
  }
}

}  // namespace

int main(int argc, char ** argv)
{
  ask();
  fail_and_halt();
  locate();
  check();
  if (argc > 1) {
    tree_of_file(argv[1]);
  }
  std::cout << "all promises are kept\n";
  return 0;
}
