// Drives `dlib::sgd` on a fully connected layer without bias, of one output.
#include "protocol.hpp"

#include <algorithm>
#include <dlib/dnn.h>
#include <sstream>

class Dlib {
public:
  explicit Dlib(const protocol::Case &given)
      : solvers_(1, dlib::sgd(given.weight_decay, given.momentum[0])), one_(1, 1) {
    one_ = 1;
    forward(given.p); // sets the layer up
    std::copy(given.p.begin(), given.p.end(), net_.layer_details().get_layer_params().begin());
  }

  void step(const std::vector<float> &gradient, double lr, double momentum) {
    set(momentum);
    // The output is x * p: with x = g, and 1 as the gradient of the output, that of p is g.
    forward(gradient);
    net_.back_propagate_error(x_, one_);
    net_.update_parameters(solvers_, lr);
  }

  std::vector<float> parameter() const { return listed(net_.layer_details().get_layer_params()); }

  std::vector<float> buffer() const { return listed(stored().v); }

private:
  void forward(const std::vector<float> &x) {
    const dlib::matrix<float> column = dlib::mat(x);
    net_.to_tensor(&column, &column + 1, x_);
    net_.forward(x_);
  }

  struct Stored {
    std::string version;
    dlib::resizable_tensor v;
    float weight_decay, momentum;
  };

  // A solver shows its buffer, and lets its momentum be changed, only in its serialized form.
  Stored stored() const {
    std::stringstream stream;
    serialize(solvers_[0], stream);
    Stored held;
    dlib::deserialize(held.version, stream);
    deserialize(held.v, stream);
    dlib::deserialize(held.weight_decay, stream);
    dlib::deserialize(held.momentum, stream);
    return held;
  }

  void set(float momentum) {
    if (momentum == solvers_[0].get_momentum())
      return;
    const Stored held = stored();
    std::stringstream stream;
    dlib::serialize(held.version, stream);
    serialize(held.v, stream);
    dlib::serialize(held.weight_decay, stream);
    dlib::serialize(momentum, stream);
    deserialize(solvers_[0], stream);
  }

  static std::vector<float> listed(const dlib::tensor &values) { return {values.begin(), values.end()}; }

  dlib::fc_no_bias<1, dlib::input<dlib::matrix<float>>> net_;
  std::vector<dlib::sgd> solvers_;
  dlib::resizable_tensor x_, one_;
};

int main(int argc, char **argv) { return protocol::main<Dlib>(argc, argv, "dlib", {{"libdlib-dev", VERSION}}); }
