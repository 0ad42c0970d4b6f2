// Drives TensorFlow.js' `tf.train.momentum` on its CPU backend.
"use strict";

const { framework, main } = require("./protocol.js");
const tf = framework("@tensorflow/tfjs-core");
framework("@tensorflow/tfjs-backend-cpu");

let made = 0;

class Tfjs {
  constructor(given) {
    given.refuseUnless({ dtype: "float32", weight_decay: 0, dampening: 0 });
    this.rounded = {};
    this.name = `p${made++}`;
    this.variable = tf.variable(tf.tensor1d(given.start()), true, this.name);
    this.optimizer = tf.train.momentum(given.lr[0], given.momentum[0], given.nesterov);
  }

  step(gradient, lr, momentum) {
    this.optimizer.setLearningRate(lr);
    this.optimizer.setMomentum(momentum); // reaches no tensor that the update uses: `m` is one
    this.optimizer.m = tf.scalar(momentum);
    this.optimizer.applyGradients({ [this.name]: tf.tensor1d(gradient) });
  }

  parameter() {
    return this.variable.dataSync();
  }

  buffer() {
    return this.optimizer.accumulations[0].variable.dataSync();
  }
}

main({ "@tensorflow/tfjs-core": tf.version_core }, { tfjs: (given) => new Tfjs(given) });
