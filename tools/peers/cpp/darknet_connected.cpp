// Drives Darknet's `update_network` on a net of one connected layer, of one output and batches of one.
#include "protocol.hpp"

#include <algorithm>
#include <darknet.h>

class Darknet {
public:
  explicit Darknet(const protocol::Case &given)
      : net_(parse_network_cfg(const_cast<char *>("one_layer.cfg"))), layer_(net_->layers[0]), size_(given.p.size()) {
    if (layer_.nweights != 0 ? layer_.nweights != size_ : layer_.inputs * layer_.outputs != size_)
      throw std::runtime_error("one_layer.cfg is of another size");
    net_->decay = given.weight_decay;
    std::copy(given.p.begin(), given.p.end(), layer_.weights);
  }
  ~Darknet() { free_network(net_); }

  void step(std::vector<float> gradient, double lr, double momentum) {
    net_->learning_rate = lr;
    net_->momentum = momentum;
    // The output is x * p: with x = g, and -1 as its negative gradient, that of p is -g.
    network seen = *net_;
    seen.input = gradient.data();
    layer_.delta[0] = -1;
    layer_.backward(layer_, seen);
    update_network(net_);
  }

  std::vector<float> parameter() const { return {layer_.weights, layer_.weights + size_}; }

  std::vector<float> buffer() const { return {layer_.weight_updates, layer_.weight_updates + size_}; }

private:
  network *net_;
  layer &layer_;
  int size_;
};

int main(int argc, char **argv) { return protocol::main<Darknet>(argc, argv, "darknet", {{"darknet", VERSION}}); }
