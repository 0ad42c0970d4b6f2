// The protocol of ../protocol.py for a driver in C++.
#pragma once

#include <cstdio>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <vector>

namespace protocol {

using json = nlohmann::json;

// The framework cannot express a case; the text says what it lacks.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A case in float32: both frameworks have no other dtype.
struct Case {
  std::vector<float> p;
  std::vector<double> lr, momentum;
  double weight_decay;
  json values;

  explicit Case(const json &values)
      : p(values.at("p").get<std::vector<float>>()), lr(values.at("lr")), momentum(values.at("momentum")),
        weight_decay(values.value("weight_decay", 0.0)), values(values) {
    if (values.at("dtype") != "float32")
      throw Refused("dtype is always float32 in this framework");
    if (values.value("nesterov", false))
      throw Refused("nesterov is always False in this framework");
    if (values.value("dampening", 0.0) != 0)
      throw Refused("dampening is always 0 in this framework");
  }

  // The gradient of step t at p.
  std::vector<float> gradient(std::size_t t, const std::vector<float> &at) const {
    if (!values.at("gradients").is_null())
      return values.at("gradients").at(t);
    const std::vector<float> curvature = values.at("curvature"), center = values.at("center");
    std::vector<float> g(at.size());
    for (std::size_t i = 0; i < g.size(); ++i) {
      const float apart = at[i] - center[i];
      g[i] = curvature[i] * apart;
    }
    return g;
  }
};

template <typename Peer> json drive(const json &values) {
  json answer = {{"name", values.at("name")}, {"dtype", values.at("dtype")}};
  try {
    const Case given(values);
    Peer peer(given);
    for (std::size_t t = 0; t < given.lr.size(); ++t) {
      peer.step(given.gradient(t, peer.parameter()), given.lr[t], given.momentum[t]);
      answer["p"].push_back(peer.parameter());
      answer["b"].push_back(peer.buffer());
    }
    answer["rounded"] = json::object();
  } catch (const Refused &refusal) {
    answer["refused"] = refusal.what();
  }
  return answer;
}

// Drives the one row of a program.
template <typename Peer> int main(int argc, char **argv, const std::string &row, const json &versions) {
  if (argc != 2 || argv[1] != row) {
    std::cerr << "row must be " << row << "\n";
    return 1;
  }
  const int output = dup(STDOUT_FILENO);
  dup2(STDERR_FILENO, STDOUT_FILENO); // what a framework prints is not a trajectory
  json answers = json::array();
  for (const json &values : json::parse(std::cin))
    answers.push_back(drive<Peer>(values));
  std::fflush(stdout);
  dup2(output, STDOUT_FILENO);
  std::cout << json{{"versions", versions}, {"cases", answers}} << std::endl;
  return 0;
}

} // namespace protocol
